"""Conditions on fields: how they are read, and the index of a field against reading every item."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidera.errors import SearchError
from sidera.items.conditions import Condition, FieldColumn, conditions_of

scalars = st.sampled_from(["a", "b", "", "1", "true", 0, 1, -2, 2.5, 1.0, 10**400, True, False])
held = st.none() | scalars | st.lists(scalars | st.none(), max_size=3) | st.just({"a": 1}) | st.just([["a"]])
bounds = st.sampled_from([-2, -0.5, 0, 1, 1.0, 2.5, 7, 10**400])
ranges = st.builds(
    lambda two, ends: {end: value for end, value in zip(("min", "max"), sorted(two), strict=True) if end in ends},
    st.tuples(bounds, bounds),
    st.sampled_from([("min",), ("max",), ("min", "max")]),
)


def equal(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def passes(field: Any, wanted: Any) -> bool:
    """Whether a field meets a condition, the obvious way."""
    values = field if isinstance(field, list) else [field]
    if isinstance(wanted, Mapping):
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        return any(wanted.get("min", -math.inf) <= number <= wanted.get("max", math.inf) for number in numbers)
    choices = wanted if isinstance(wanted, list) else [wanted]
    return any(equal(value, choice) for value in values for choice in choices)


@given(st.lists(held, max_size=12), scalars | st.lists(scalars, min_size=1, max_size=4) | ranges)
def test_a_column_finds_the_rows_that_reading_every_item_finds(fields: list[Any], wanted: Any) -> None:
    items = [{"other": 1} if field is None else {"it": field} for field in fields]
    column = FieldColumn.build(items, "it")
    (condition,) = conditions_of({"it": wanted})
    found = sorted(set(column.matching(condition).tolist()))
    assert found == [row for row, field in enumerate(fields) if field is not None and passes(field, wanted)]
    assert column.has_field == any(field is not None for field in fields)


def test_conditions_are_read_as_they_stand_in_json() -> None:
    asked = {"price": {"min": 5, "max": 20}, "category": ["toys", "games"], "new": True, "year": {"min": 2020}}
    assert conditions_of(asked) == (
        Condition("category", any_of=("toys", "games")),
        Condition("new", any_of=((True,),)),
        Condition("price", least=5, most=20),
        Condition("year", least=2020),
    )
    assert conditions_of({}) == ()
    assert conditions_of({"a": True}) != conditions_of({"a": 1})
    assert hash(conditions_of({"a": ["x", "y"]})) == hash(conditions_of({"a": ("x", "y")}))


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({}, "is no range"),
        ({"min": 1, "most": 2}, "is no range"),
        ({"min": None}, "neither min nor max"),
        ({"min": 3, "max": 2}, "min of 3 above its max of 2"),
        ({"min": "3"}, "min that is no finite number"),
        ({"max": True}, "max that is no finite number"),
        ({"max": math.nan}, "max that is no finite number"),
        ([], "lists no value"),
        (None, "no value"),
        ([{"a": 1}], "no value"),
        ([["a"]], "no value"),
        (math.inf, "no value"),
    ],
)
def test_a_wrong_condition_is_refused_and_the_message_names_its_field(wanted: Any, problem: str) -> None:
    with pytest.raises(SearchError, match=f"the filter of field 'price'.*{problem}"):
        conditions_of({"price": wanted})
