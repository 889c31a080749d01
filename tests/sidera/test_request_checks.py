"""What a query takes, and whether it can be answered, before anything is computed."""

from pathlib import Path

import pytest

from sidera.catalog import CatalogItem, create_catalog
from sidera.decoding.diversity import Diversity
from sidera.errors import FilterError, SearchError, UnknownDomainError
from sidera.items.conditions import conditions_of
from sidera.queries import Query
from sidera.recommender import Recommender
from sidera.request_checks import Work, check_query, work_of
from tests.sidera.worlds import SIZES, adapted_model

LEVELS = len(SIZES)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    sids = [(0,) * LEVELS, (*(0,) * (LEVELS - 1), 1)]
    items = [CatalogItem("films", f"f{place}", sid, None, {"year": 1990 + place}) for place, sid in enumerate(sids)]
    model = adapted_model(tmp_path_factory.mktemp("adapters"))
    return Recommender(model, create_catalog(items, SIZES), max_history=4, beam_width=7)


def test_work_is_the_prompt_and_a_token_a_beam_and_level(recommender: Recommender) -> None:
    history = (("films", "f0"),) * 3
    assert work_of(recommender, Query("films", history, 5)) == Work(3 * (1 + LEVELS) + 1, 7 * (LEVELS - 1))


def test_the_prompt_of_a_query_is_as_long_as_its_work_says(recommender: Recommender) -> None:
    query = Query("films", (("films", "f0"), ("films", "f1")))
    assert len(recommender.prompt(query)) == work_of(recommender, query).prompt_tokens


def test_no_more_of_a_history_is_work_than_is_read(recommender: Recommender) -> None:
    long = Query("films", (("films", "f0"),) * 100)
    assert work_of(recommender, long).prompt_tokens == 4 * (1 + LEVELS) + 1


def test_beams_are_those_of_the_query_and_never_fewer_than_its_results(recommender: Recommender) -> None:
    assert work_of(recommender, Query("films", num_results=2, beam_width=3)).search_tokens == 3 * (LEVELS - 1)
    assert work_of(recommender, Query("films", num_results=20)).search_tokens == 20 * (LEVELS - 1)


def test_an_explanation_is_a_reading_an_item_and_a_search_an_item_of_the_history(recommender: Recommender) -> None:
    plain = work_of(recommender, Query("films", (("films", "f0"),) * 2, 5))
    explained = work_of(recommender, Query("films", (("films", "f0"),) * 2, 5, explain=True))
    reading = 5 * (plain.prompt_tokens + LEVELS)
    searching = 2 * (plain.prompt_tokens + 5 * (LEVELS - 1))
    assert explained.search_tokens == plain.search_tokens + reading + searching
    assert explained.prompt_tokens == plain.prompt_tokens


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (Query("songs"), UnknownDomainError, "there is no domain 'songs'"),
        (Query("films", num_results=0), SearchError, "at least 1"),
        (Query("films", beam_width=0), SearchError, "at least 1"),
        (Query("films", diversity=Diversity(1, LEVELS + 1)), SearchError, f"prefix_length is {LEVELS + 1}"),
        (Query("films", conditions=conditions_of({"colour": "red"})), FilterError, "no item has the field 'colour'"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    recommender: Recommender, query: Query, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_query(recommender, query)


def test_what_a_search_refuses_is_refused_by_a_check_too(recommender: Recommender, tmp_path: Path) -> None:
    query = Query("films", conditions=conditions_of({"year": {"min": 1990}}), diversity=Diversity(1, LEVELS))
    check_query(recommender, query)
    assert recommender.recommend([query])[0].items
