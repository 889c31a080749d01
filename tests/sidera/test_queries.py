"""Filters, caps and draws as a query asks for them, from item ids to item ids."""

import math

import numpy as np
import pytest

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.decoding.diversity import Diversity
from sidera.decoding.sampling import Sampling
from sidera.errors import SearchError
from sidera.items.conditions import conditions_of
from sidera.queries import Query, Recommendation
from sidera.recommender import Recommender
from tests.sidera.worlds import SIZES, adapted_model, random_sids

HISTORY = (("films", "f3"), ("books", "b7"))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    rng = np.random.default_rng(0)
    return create_catalog(
        [
            CatalogItem(
                domain, f"{domain[0]}{place}", sid, None, {"year": 1990 + place, "genre": ["a", "b"][: place % 3]}
            )
            for domain, count in (("books", 30), ("films", 40))
            for place, sid in enumerate(rng.permutation(random_sids(rng, count)).tolist())
            for sid in [tuple(sid)]
        ],
        SIZES,
    )


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Recommender:
    return Recommender(adapted_model(tmp_path_factory.mktemp("adapters")), catalog, max_history=4, beam_width=40)


def ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def ranking(recommender: Recommender, domain: str = "films") -> dict[str, float]:
    (answer,) = recommender.recommend([Query(domain, HISTORY, 40, exclude_history=False)])
    return {item.item_id: item.score for item in answer.items}


def test_a_filtered_answer_is_the_ranking_restricted_with_the_same_scores(recommender: Recommender) -> None:
    scores = ranking(recommender)
    queries = [
        Query("films", HISTORY, 5, conditions=conditions_of({"year": {"min": 2000, "max": 2020}}), beam_width=5),
        Query("films", HISTORY, 5, conditions=conditions_of({"year": {"max": 2009}, "genre": "b"})),
        Query("films", HISTORY, 5, only=frozenset(["f1", "f3", "f9", "?", "b2"])),
        Query("films", HISTORY, 5, conditions=conditions_of({"genre": ["a"]}), only=frozenset(["f0", "f1", "f8"])),
        Query("films", HISTORY, 40, conditions=conditions_of({"year": {"min": 0}})),
    ]
    allowed = [
        {f"f{place}" for place in range(10, 31)},
        {f"f{place}" for place in range(20) if place % 3 == 2},
        {"f1", "f9"},
        {"f1", "f8"},
        {f"f{place}" for place in range(40) if place != 3},
    ]
    for query, answer, own in zip(queries, recommender.recommend(queries), allowed, strict=True):
        expected = [item_id for item_id in scores if item_id in own - {"f3"}][: query.num_results]
        assert len(ids(answer)) == len(expected)
        assert [item.score for item in answer.items] == pytest.approx([scores[one] for one in ids(answer)], abs=1e-4)
        if answer.exact:
            assert ids(answer) == expected
    few = recommender.recommend(queries)[2]
    assert few.exact
    assert few.returned_reason == "only 2 items of 'films' are allowed; 5 were asked for"


def test_hidden_items_keep_their_part_of_the_scores_and_never_come_back(
    recommender: Recommender, catalog: Catalog
) -> None:
    scores = ranking(recommender)
    best = next(iter(scores))
    other = Recommender(recommender.model, catalog, 4, 40)
    other.replace_catalog(other.prepare_catalog(catalog.with_hidden([("films", best)], 2), None))
    later = ranking(other)
    assert list(later) == [item_id for item_id in scores if item_id != best]
    assert [*later.values()] == pytest.approx([*scores.values()][1:], abs=1e-5)
    (shown,) = other.recommend([Query("films", HISTORY, 5, only=frozenset([best]))])
    assert shown.items == ()
    assert shown.returned_reason == "only 0 items of 'films' are allowed; 5 were asked for"


def test_an_answer_that_prefixes_cut_short_says_so(recommender: Recommender) -> None:
    best = [*ranking(recommender)]
    sid_of = {item.item_id: item.sid for item in recommender.recommend([Query("films", HISTORY, 40)])[0].items}
    first = {sid_of[one][0] for one in best if one in sid_of}
    (answer,) = recommender.recommend([Query("films", HISTORY, 10, diversity=Diversity(1, 1))])
    assert [item.sid[0] for item in answer.items] == list(
        dict.fromkeys(sid_of[one][0] for one in best if one in sid_of)
    )
    assert answer.returned_reason == (
        f"only {len(first)} items of 'films' are allowed; 10 were asked for, no more than 1 of a prefix"
    )
    assert answer.exact


def test_a_draw_is_repeated_by_its_seed_and_honours_filters(recommender: Recommender) -> None:
    scores = ranking(recommender)
    conditions = conditions_of({"genre": "a"})
    query = Query("films", HISTORY, 6, conditions=conditions, sampling=Sampling(4, 5.0), beam_width=40)
    (alone,) = recommender.recommend([query])
    together = recommender.recommend([Query("books", num_results=2), query, Query("films", (), 3, beam_width=4), query])
    assert ids(together[1]) == ids(together[3]) == ids(alone)
    assert all(int(item_id[1:]) % 3 for item_id in ids(alone))
    assert [item.score for item in alone.items] == pytest.approx([scores[one] for one in ids(alone)], abs=1e-4)
    (other,) = recommender.recommend([Query("films", HISTORY, 6, conditions=conditions, sampling=Sampling(5, 5.0))])
    assert ids(other) != ids(alone)
    assert all(math.isfinite(item.score) for item in other.items)


def test_a_condition_on_a_field_that_a_domain_lacks_is_an_error(recommender: Recommender) -> None:
    with pytest.raises(SearchError, match="no item has the field 'price' of 'films'"):
        recommender.recommend([Query("films", conditions=conditions_of({"price": {"max": 5}}))])
