"""The rows of a plain batch are read all at once, and are what reading them one by one gives."""

import gc
import json
import weakref
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.event_schemas import EventBatch, plain_events
from service.events.numbers import ItemNumbers
from service.events.rows import Event
from service.schemas import InvalidRow
from sidera.catalog import create_catalog
from tests.service.events.made_up import body
from tests.service.fakes import SIZES, bundle_items, film

TEXTS = st.sampled_from(
    ["a", "anna/history", "/history", "", "tab\there", "end\n", "x" * 64, "x" * 65, "日本 😀", "\ud800"]
)
TIMES = st.one_of(
    st.integers(-1, 10**20),
    st.floats(),
    st.sampled_from([True, None, "2026-01-01T00:00:00+01:00", "2026-01-01", 1795366752.123457, 9e9, 2**53 + 1, [1]]),
)
ODD = st.one_of(TEXTS, st.none(), st.integers(), st.text(max_size=300))


def changed(field: str, value: object) -> dict[str, Any]:
    return body("a", "anna", "drama-0", 20) | {field: value}


ROWS = st.lists(
    st.one_of(
        st.builds(body, TEXTS, TEXTS, TEXTS, TIMES),
        st.builds(changed, st.sampled_from(["event_id", "user_id", "domain", "item_id", "type", "extra"]), ODD),
        st.builds(changed, st.just("timestamp"), TIMES),
        st.just({"event_id": "b"}),
        ODD,
    ),
    min_size=1,
    max_size=4,
)


def one_by_one(text: str) -> list[Event | InvalidRow]:
    return list(EventBatch.model_validate(json.loads(text)).events)


@given(ROWS)
@example([body("a", "anna/history", "drama-0", 20)])
@example([body("a", "anna", "drama-0", 20, type="purchase"), body("a", "anna", "drama-0", "2026-01-01T00:00:00Z")])
@settings(max_examples=500, deadline=None)
def test_rows_read_at_once_are_those_read_one_by_one(rows: list[Any]) -> None:
    text = json.dumps({"events": rows})
    assert plain_events(text.encode()) in (None, one_by_one(text))


@given(st.floats(0, 8.9e9) | st.integers(0, 8_900_000_000))
@example(1795366752.123457)
@settings(deadline=None)
def test_times_are_the_same_microseconds_either_way(seconds: float) -> None:
    text = json.dumps({"events": [body("a", "anna", "drama-0", seconds)]})
    assert plain_events(text.encode()) == one_by_one(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"event_id": "a", "event_id": "b", "user_id": "u", "domain": "d", "item_id": "i", "timestamp": 1e1}',
        '{"event_id": "\\u00e4\\ud83d\\ude00/", "user_id": "u", "domain": "d", "item_id": "i", "timestamp": 1.50}',
    ],
)
def test_json_is_read_alike_where_it_can_be_read_in_two_ways(text: str) -> None:
    whole = f' {{"events": [], "events": [{text}]}} '
    assert plain_events(whole.encode()) == one_by_one(whole)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"events": []}', '{"events": {}}', '{"events": [1]}', '{"events": [[]], "more": 1}']
)
def test_what_is_no_batch_of_plain_rows_is_not_read_at_once(text: str) -> None:
    assert plain_events(text.encode()) is None


def test_an_item_is_looked_up_once_a_snapshot() -> None:
    catalog = create_catalog(bundle_items(), SIZES)
    later, numbers = catalog.with_items([film(6)], catalog.version + 1), ItemNumbers(most=2)
    for snapshot in (catalog, later, catalog, later):
        for item_id in ("drama-0", "drama-1", "drama-6", "nothing", "drama-0"):
            assert numbers.of(snapshot, "drama", item_id) == snapshot.find("drama", item_id)
    assert catalog.find("drama", "drama-6") is None
    assert later.find("drama", "drama-6") is not None


def test_numbers_keep_no_catalog_alive() -> None:
    catalog, numbers = create_catalog(bundle_items(), SIZES), ItemNumbers()
    assert numbers.of(catalog, "drama", "drama-0") == 0
    left = weakref.ref(catalog)
    del catalog
    gc.collect()
    assert left() is None
