"""Explanations of recommended items, against what the recommender answers to other histories."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.explain.item_explanation import ItemExplanation, Parts
from sidera.items.neighbours import GrownLists, NeighbourLists, Neighbours, Reading, Shares
from sidera.language_model import LanguageModel
from sidera.queries import Query, RecommendedItem
from sidera.recommender import Recommender
from tests.sidera.worlds import SIZES, VOCABULARY, adapted_model, random_backbone, random_sids

COUNTS = {"books": 20, "films": 30, "songs": 12}
HISTORY = (("films", "films-3"), ("books", "books-7"), ("films", "unknown"), ("films", "films-5"))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    rng = np.random.default_rng(0)
    return create_catalog(
        [
            CatalogItem(domain, f"{domain}-{place}", sid)
            for domain, count in COUNTS.items()
            for place, sid in enumerate(random_sids(rng, count))
        ],
        SIZES,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return adapted_model(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def neighbours(catalog: Catalog) -> Neighbours:
    """Each item is followed by three of its domain, and like two of it."""
    rng = np.random.default_rng(1)

    def lists(length: int) -> NeighbourLists:
        own = {
            number: rng.choice(catalog.index(domain).number_of_leaf, length, replace=False)
            for domain in COUNTS
            for number in catalog.index(domain).number_of_leaf.tolist()
        }
        items = np.concatenate([own[number] for number in range(len(catalog))]).astype(np.int32)
        weights = rng.uniform(0.1, 1, len(items)).astype(np.float32)
        return NeighbourLists(np.arange(len(catalog) + 1) * length, items, weights)

    popularity = np.zeros(len(catalog), dtype=np.float32)
    for domain in COUNTS:
        numbers = catalog.index(domain).number_of_leaf
        counts = rng.integers(0, 5, len(numbers))
        popularity[numbers] = counts / counts.sum()
    shares = {"films": Shares(0.2, 0.1, 0.1), "books": Shares(0.0, 0.3, 0.0)}
    return Neighbours(lists(3), GrownLists(lists(2)), popularity, shares, Shares(similar=0.5), Reading())


def explained(recommender: Recommender, query: Query) -> list[tuple[RecommendedItem, ItemExplanation]]:
    (answer,) = recommender.recommend([replace(query, explain=True)])
    pairs = [(item, item.explanation) for item in answer.items if item.explanation is not None]
    assert len(pairs) == len(answer.items) > 0
    return pairs


def score_of(recommender: Recommender, query: Query) -> dict[str, float]:
    """The score of every item of the query's domain."""
    whole = replace(query, num_results=COUNTS[query.domain], exclude_history=False, explain=False)
    return {item.item_id: item.score for item in recommender.recommend([whole])[0].items}


@pytest.mark.parametrize("domain", COUNTS)
@pytest.mark.parametrize("known", [False, True])
def test_the_parts_sum_to_the_items_probability_and_the_codes_give_the_language_models(
    model: LanguageModel, catalog: Catalog, neighbours: Neighbours, domain: str, known: bool
) -> None:
    recommender = Recommender(model, catalog, 4, 40, neighbours if known else None)
    rest = 1.0
    if known:
        shares, own = neighbours.shares_of(domain), HISTORY if domain != "songs" else ()
        heard = [name for name, item_id in own if name == domain and item_id != "unknown"]
        rest -= shares.popularity + (shares.transitions + shares.similar) * bool(heard)
    for item, why in explained(recommender, Query(domain, HISTORY, 8)):
        parts = why.parts
        total = parts.language_model + parts.followed + parts.alike + parts.popular
        assert total == pytest.approx(math.exp(item.score), abs=1e-5)
        assert tuple(one.code for one in why.codes) == item.sid
        universal = math.prod(one.universal for one in why.codes)
        own_domain = math.prod(one.domain or 0.0 for one in why.codes)
        assert why.gamma == pytest.approx({"films": 0.3, "books": 0.8, "songs": 0.0}[domain])
        mixed = (1 - why.gamma) * universal + why.gamma * own_domain
        assert parts.language_model == pytest.approx(rest * mixed, abs=1e-6)
        assert all((one.domain is None) == (domain == "songs") for one in why.codes)
        if not known:
            assert parts == Parts(parts.language_model)


def test_the_parts_sum_to_the_items_probability_after_items_were_removed(
    model: LanguageModel, catalog: Catalog, neighbours: Neighbours
) -> None:
    own = [number for item_id in ("films-3", "films-5") if (number := catalog.find("films", item_id)) is not None]
    listed = [neighbours.followers(own), neighbours.likes("films", own)]
    gone = {number for found in listed for number in found[0][:2].tolist()} - set(own)
    films = catalog.index("films").number_of_leaf
    gone.add(int(films[neighbours.popularity[films].argmax()]))
    left = catalog.without_items([("films", catalog.name(number)[0]) for number in gone], catalog.version + 1)
    recommender = Recommender(model, left, 4, 40, neighbours)
    found = explained(recommender, Query("films", HISTORY, 30, exclude_history=False))
    assert len(found) == len(left.index("films").number_of_leaf) < COUNTS["films"]
    for item, why in found:
        parts = why.parts
        total = parts.language_model + parts.followed + parts.alike + parts.popular
        assert total == pytest.approx(math.exp(item.score), abs=1e-5)
    assert sum(why.parts.popular for _, why in found) == pytest.approx(0.1)


def test_the_codes_beside_an_items_own_are_the_likeliest_that_items_have_there(
    model: LanguageModel, catalog: Catalog
) -> None:
    recommender = Recommender(model, catalog, 4, 40)
    sids = [tuple(sid) for sid in catalog.sids("films").tolist()]
    query = Query("films", HISTORY, COUNTS["films"], exclude_history=False)
    found = {item.sid: why for item, why in explained(recommender, query)}
    assert len(found) == COUNTS["films"]
    for sid, why in found.items():
        for level, step in enumerate(why.codes):
            beside = {
                other[level]: other for other in sids if other[:level] == sid[:level] and other[level] != sid[level]
            }
            chance = {
                code: (found[other].codes[level].universal, found[other].codes[level].domain)
                for code, other in beside.items()
            }
            assert len(step.others) == min(3, len(chance))
            for one in step.others:
                assert (one.universal, one.domain) == pytest.approx(chance[one.code], abs=1e-5)

            def mixed(pair: tuple[float, float | None], gamma: float = why.gamma) -> float:
                return (1 - gamma) * pair[0] + gamma * (pair[1] or 0.0)

            told = [mixed((one.universal, one.domain)) for one in step.others]
            assert told == pytest.approx(sorted(map(mixed, chance.values()), reverse=True)[:3], abs=1e-5)


def test_each_part_is_what_it_is_named_after(model: LanguageModel, catalog: Catalog, neighbours: Neighbours) -> None:
    recommender = Recommender(model, catalog, 4, 40, neighbours)
    numbers = [catalog.find("films", item_id) for item_id in ("films-3", "films-5")]
    own = [number for number in numbers if number is not None]
    followed = dict(zip(*(x.tolist() for x in neighbours.followers(own)), strict=True))
    alike = dict(zip(*(x.tolist() for x in neighbours.likes("films", own)), strict=True))
    found = explained(recommender, Query("films", HISTORY, 30, exclude_history=False))
    assert len(found) == 30
    for item, why in found:
        number = catalog.find("films", item.item_id)
        assert number is not None
        assert why.parts.followed == pytest.approx(0.2 * followed.get(number, 0.0))
        assert why.parts.alike == pytest.approx(0.1 * alike.get(number, 0.0))
        assert why.parts.popular == pytest.approx(0.1 * float(neighbours.popularity[number]))


@pytest.mark.parametrize("known", [False, True])
def test_the_effect_of_a_history_item_is_what_the_score_loses_without_it(
    model: LanguageModel, catalog: Catalog, neighbours: Neighbours, known: bool
) -> None:
    recommender = Recommender(model, catalog, 4, 40, neighbours if known else None)
    query = Query("films", HISTORY, 6)
    without = {
        place: score_of(recommender, replace(query, history=HISTORY[:place] + HISTORY[place + 1 :]))
        for place in (0, 1, 3)
    }
    for item, why in explained(recommender, query):
        assert sorted(one.place for one in why.history) == [0, 1, 3]
        for one in why.history:
            assert (one.domain, one.item_id) == HISTORY[one.place]
            assert one.effect == pytest.approx(item.score - without[one.place][item.item_id], abs=1e-4)
        effects = [abs(one.effect) for one in why.history]
        assert effects == sorted(effects, reverse=True)


def test_only_the_items_that_were_read_have_an_effect_and_no_older_one_takes_their_place(
    model: LanguageModel, catalog: Catalog
) -> None:
    long = (*((("books", f"books-{place}")) for place in range(6)), *HISTORY)
    query = Query("films", long, 5)
    recommender = Recommender(model, catalog, 3, 40)
    shorter = Recommender(model, catalog, 2, 40)
    for item, why in explained(recommender, query):
        assert sorted(one.place for one in why.history) == [6, 7, 9]
        for one in why.history:
            others = score_of(shorter, replace(query, history=long[6 : one.place] + long[one.place + 1 :]))
            assert one.effect == pytest.approx(item.score - others[item.item_id], abs=1e-4)


def test_filtered_and_drawn_items_are_explained_as_any_other(model: LanguageModel, catalog: Catalog) -> None:
    recommender = Recommender(model, catalog, 4, 40)
    every = {item.item_id: why for item, why in explained(recommender, Query("films", HISTORY, 30))}
    only = frozenset(f"films-{place}" for place in range(10, 20))
    for item, why in explained(recommender, Query("films", HISTORY, 4, only=only)):
        assert item.item_id in only
        expected = every[item.item_id]
        assert [one.universal for one in why.codes] == pytest.approx([one.universal for one in expected.codes])
        assert {one.place: one.effect for one in why.history} == pytest.approx(
            {one.place: one.effect for one in expected.history}, abs=1e-4
        )


def test_without_a_history_there_are_no_effects(model: LanguageModel, catalog: Catalog) -> None:
    for _, why in explained(Recommender(model, catalog, 4, 40), Query("books", (("books", "?"),), 3)):
        assert why.history == ()


def test_a_domain_heard_alone_has_a_gamma_of_one(tmp_path: Path, catalog: Catalog) -> None:
    recommender = Recommender(adapted_model(tmp_path, {"films": 1.0, "books": 1.0}), catalog, 4, 40)
    for item, why in explained(recommender, Query("films", HISTORY, 3)):
        assert why.gamma == 1.0
        assert math.prod(one.domain or 0.0 for one in why.codes) == pytest.approx(math.exp(item.score), abs=1e-5)


def test_no_explanation_is_made_unless_it_is_asked_for(catalog: Catalog) -> None:
    reads = []

    class Counting(LanguageModel):
        def _forward(self, *arguments: Any, **named: Any) -> Any:
            reads.append(len(arguments[0]))
            return super()._forward(*arguments, **named)

    recommender = Recommender(Counting(random_backbone(), VOCABULARY), catalog, 4, 10)
    query = Query("films", HISTORY, 2)
    (plain,) = recommender.recommend([query])
    assert [item.explanation for item in plain.items] == [None, None]
    without = len(reads)
    reads.clear()
    both = recommender.recommend([query, replace(query, explain=True)])
    assert [item.explanation for item in both[0].items] == [None, None]
    assert [item.item_id for item in both[1].items] == [item.item_id for item in plain.items]
    assert len(reads) > without
    assert reads.count(3) >= 1


def test_an_answer_without_items_has_nothing_to_explain(model: LanguageModel, catalog: Catalog) -> None:
    (answer,) = Recommender(model, catalog, 4, 40).recommend([Query("films", only=frozenset(), explain=True)])
    assert answer.items == ()
