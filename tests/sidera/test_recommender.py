"""Item ids in, item ids and scores out, against exhaustive scoring of a small catalog."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import CatalogError, SearchError, UnknownDomainError
from sidera.item_scores import item_scores
from sidera.items.memory_router import FEATURES, MemoryRouter
from sidera.items.neighbours import GrownLists, NeighbourLists, Neighbours, Reading, Shares
from sidera.items.transitions import TransitionDelta
from sidera.language_model import LanguageModel
from sidera.recommender import Query, Recommendation, Recommender
from tests.sidera.worlds import SIZES, VOCABULARY, adapted_model, random_backbone, random_sids

COUNTS = {"books": 30, "films": 40, "songs": 12, "one-item": 1}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    rng = np.random.default_rng(0)
    return create_catalog(
        [
            CatalogItem(domain, f"{domain[0]}{place}", sid, f"Title {place}")
            for domain, count in COUNTS.items()
            for place, sid in enumerate(rng.permutation(random_sids(rng, count)).tolist())
            for sid in [tuple(sid)]
        ],
        SIZES,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return adapted_model(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def recommender(model: LanguageModel, catalog: Catalog) -> Recommender:
    return Recommender(model, catalog, max_history=4, beam_width=40)


def exhaustive(recommender: Recommender, query: Query) -> dict[str, float]:
    """The score of every item of the query's domain, best first."""
    catalog, model = recommender.catalog, recommender.model
    numbers = catalog.index(query.domain).number_of_leaf.tolist()
    item_ids = [catalog.item(number).item_id for number in numbers]
    leaves_B = torch.tensor([recommender.leaf(query.domain, item_id) for item_id in item_ids])
    prompts = [recommender.prompt(query)] * len(item_ids)
    mixture = model.mixture([query.domain] * len(item_ids))
    scores = item_scores(model, recommender.tables, prompts, leaves_B, mixture).tolist()
    return dict(sorted(zip(item_ids, scores, strict=True), key=lambda pair: -pair[1]))


def ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def scores(answer: Recommendation) -> list[float]:
    return [item.score for item in answer.items]


def assert_same(answers: Sequence[Recommendation], expected: Sequence[Recommendation]) -> None:
    for answer, other in zip(answers, expected, strict=True):
        assert scores(answer) == pytest.approx(scores(other), rel=2e-6, abs=1e-5)
        assert ids(answer) == ids(other)
        assert (answer.missing, answer.exact, answer.fallback) == (other.missing, other.exact, other.fallback)
        assert (answer.returned_reason, answer.beams) == (other.returned_reason, other.beams)


HISTORY = (("films", "f3"), ("books", "b7"), ("songs", "s2"))


@pytest.mark.parametrize("domain", COUNTS)
def test_a_whole_domain_comes_back_in_the_exhaustive_order(recommender: Recommender, domain: str) -> None:
    query = Query(domain, HISTORY, num_results=COUNTS[domain], exclude_history=False)
    answer = recommender.recommend([query])[0]
    expected = exhaustive(recommender, query)
    assert ids(answer) == list(expected)
    assert scores(answer) == pytest.approx(list(expected.values()), rel=0, abs=1e-4)
    assert sum(map(np.exp, scores(answer))) == pytest.approx(1.0, abs=1e-5)
    assert answer.exact
    assert answer.returned_reason is None


def test_an_item_comes_with_its_own_sid_and_title(recommender: Recommender) -> None:
    catalog = recommender.catalog
    for item in recommender.recommend([Query("songs", HISTORY, num_results=11)])[0].items:
        number = catalog.find("songs", item.item_id)
        assert number is not None
        known = catalog.item(number)
        assert (item.sid, item.title) == (known.sid, known.title)


def test_queries_of_all_domains_and_widths_in_one_call_are_answered_as_alone(recommender: Recommender) -> None:
    queries = [
        Query("films", HISTORY, num_results=3, beam_width=3),
        Query("books", (), num_results=5),
        Query("songs", HISTORY * 2, num_results=12, beam_width=1),
        Query("one-item", (("films", "nothing"),)),
        Query("films", HISTORY[:1], num_results=3, beam_width=3, exclude=frozenset(["f1", "f2", "?"])),
        Query("books", HISTORY, num_results=30, beam_width=100_000),
    ]
    alone = [recommender.recommend([query])[0] for query in queries]
    assert [answer.beams for answer in alone] == [3, 40, 12, 40, 3, 100_000]
    assert_same(recommender.recommend(queries), alone)
    assert_same(recommender.recommend(queries[::-1]), alone[::-1])
    assert recommender.recommend([]) == []


# History


def test_the_newest_known_items_are_read_in_order_and_unknown_ones_are_reported(recommender: Recommender) -> None:
    history = (
        ("films", "f0"), ("films", "f1"), ("nowhere", "f1"), ("books", "b2"),
        ("films", "unknown"), ("songs", "s3"), ("films", "f1"), ("books", "f1"),
    )  # fmt: skip
    answer = recommender.recommend([Query("films", history)])[0]
    assert answer.missing == (("nowhere", "f1"), ("films", "unknown"), ("books", "f1"))
    assert answer.fallback is None
    catalog = recommender.catalog
    expected = []
    for domain, item_id in [("films", "f1"), ("books", "b2"), ("songs", "s3"), ("films", "f1")]:
        number = catalog.find(domain, item_id)
        assert number is not None
        expected += VOCABULARY.item_tokens(domain, catalog.item(number).sid)
    assert recommender.prompt(Query("films", history)) == [*expected, VOCABULARY.domain_token("films")]


def test_the_order_of_the_history_matters(recommender: Recommender) -> None:
    one, other = recommender.recommend([Query("films", HISTORY), Query("films", HISTORY[::-1])])
    assert scores(one) != pytest.approx(scores(other), abs=1e-3)


def test_a_history_of_ten_thousand_items_is_read_from_its_end(recommender: Recommender) -> None:
    short = (*HISTORY, ("books", "b1"))
    long = (*((("films", "f1"), ("films", "x")) * 5_000), *short)
    answer = recommender.recommend([Query("songs", long)])[0]
    expected = recommender.recommend([Query("songs", short)])[0]
    assert ids(answer) == ids(expected)
    assert len(answer.missing) == 5_000


@pytest.mark.parametrize("history", [(), (("films", "unknown"), ("nowhere", "f1"))])
def test_without_a_known_item_the_domain_alone_speaks(
    recommender: Recommender, history: tuple[tuple[str, str], ...]
) -> None:
    for domain in COUNTS:
        answer = recommender.recommend([Query(domain, history, num_results=1)])[0]
        assert answer.fallback == "prior"
        assert answer.missing == history
        assert ids(answer) == list(exhaustive(recommender, Query(domain)))[:1]
        assert recommender.prompt(Query(domain, history)) == [VOCABULARY.domain_token(domain)]


# What must not come back


def test_exclusions_restrict_the_ranking_and_change_no_score(recommender: Recommender) -> None:
    ranking = exhaustive(recommender, Query("films", HISTORY))
    best = list(ranking)
    out = frozenset([*best[:3], best[5], "unknown", "b1"])
    answer = recommender.recommend([Query("films", HISTORY, 5, out, exclude_history=False)])[0]
    kept = [item_id for item_id in best if item_id not in out][:5]
    assert ids(answer) == kept
    assert scores(answer) == pytest.approx([ranking[item_id] for item_id in kept], rel=0, abs=1e-4)


def test_the_whole_history_is_excluded_on_request_even_what_is_too_old_to_be_read(recommender: Recommender) -> None:
    history = (*((("films", f"f{place}")) for place in range(10)), ("books", "b1"))
    without, with_history = recommender.recommend(
        [Query("films", history, 40), Query("films", history, 40, exclude_history=False)]
    )
    seen = {item_id for _, item_id in history}
    assert ids(without) == [item_id for item_id in ids(with_history) if item_id not in seen]
    assert len(ids(with_history)) == 40
    assert without.returned_reason == "only 30 items of 'films' are allowed; 40 were asked for"


def test_fewer_items_than_asked_come_back_with_the_reason_down_to_none(recommender: Recommender) -> None:
    everything = frozenset(f"s{place}" for place in range(12))
    few, none, one = recommender.recommend(
        [
            Query("songs", num_results=10, exclude=everything - {"s4", "s9"}, beam_width=10),
            Query("songs", num_results=10, exclude=everything),
            Query("one-item", num_results=10),
        ]
    )
    assert sorted(ids(few)) == ["s4", "s9"]
    assert few.exact
    assert few.returned_reason == "only 2 items of 'songs' are allowed; 10 were asked for"
    assert none.items == ()
    assert none.exact
    assert none.returned_reason is not None
    assert ids(one) == ["o0"]
    assert one.items[0].score == pytest.approx(0.0, abs=1e-6)


def test_a_narrow_beam_returns_as_many_items_as_are_asked_for(recommender: Recommender) -> None:
    for num_results in (1, 2, 7, 39):
        answer = recommender.recommend([Query("films", HISTORY, num_results, beam_width=1)])[0]
        assert len(set(ids(answer))) == num_results
        assert answer.beams == num_results


# Bad input


def test_an_unknown_domain_is_an_error(recommender: Recommender) -> None:
    with pytest.raises(UnknownDomainError, match="no domain 'nowhere'"):
        recommender.recommend([Query("films"), Query("nowhere")])


@pytest.mark.parametrize(("num_results", "beam_width"), [(0, None), (-1, 5), (5, 0), (5, -3)])
def test_fewer_than_one_item_or_beam_is_an_error(
    recommender: Recommender, num_results: int, beam_width: int | None
) -> None:
    with pytest.raises(SearchError, match="must be at least 1"):
        recommender.recommend([Query("films", num_results=num_results, beam_width=beam_width)])


def test_ids_that_no_catalog_can_hold_are_missing_and_exclude_nothing(recommender: Recommender) -> None:
    strange = ("", "\0", "f1\0", "\ud800", "x" * 100_000, "\x1f")
    history = (*(("films", item_id) for item_id in strange), ("films\x1fx", "f1"), ("\ud800", "f1"))
    answer = recommender.recommend([Query("films", history, exclude=frozenset(strange))])[0]
    assert answer.missing == history
    assert ids(answer) == ids(recommender.recommend([Query("films")])[0])


def test_the_leaf_of_an_unknown_item_is_an_error(recommender: Recommender) -> None:
    with pytest.raises(CatalogError, match="no item 'f99' in domain 'films'; register it first"):
        recommender.leaf("films", "f99")


def test_a_catalog_of_other_codebooks_is_refused(model: LanguageModel) -> None:
    other = create_catalog([CatalogItem("films", "1", (0, 0, 0))], (5, 4, 7))
    with pytest.raises(CatalogError, match="codebooks"):
        Recommender(model, other, max_history=4, beam_width=10)


# Live changes


def test_a_new_snapshot_serves_its_new_items_and_domains_exactly(recommender: Recommender) -> None:
    catalog = recommender.catalog
    taken = set(map(tuple, catalog.sids("films").tolist()))
    free = next(sid for sid in random_sids(np.random.default_rng(0), 120) if sid not in taken)
    later = catalog.with_items(
        [
            CatalogItem("films", "new", free, "New"),
            CatalogItem("plays", "p0", (1, 1, 1)),
            CatalogItem("plays", "p1", (1, 1, 2)),
        ],
        2,
    )
    prepared = recommender.prepare_catalog(later, None)
    before = recommender.recommend([Query("films", HISTORY, num_results=41)])[0]
    assert "new" not in ids(before)
    with pytest.raises(UnknownDomainError):
        recommender.recommend([Query("plays")])
    recommender.replace_catalog(prepared)
    assert recommender.catalog is later
    for query in (
        Query("films", (*HISTORY, ("films", "new"), ("plays", "p1")), num_results=41, exclude_history=False),
        Query("plays", HISTORY, num_results=2),
    ):
        answer = recommender.recommend([query])[0]
        expected = exhaustive(recommender, query)
        assert ids(answer) == list(expected)
        assert scores(answer) == pytest.approx(list(expected.values()), rel=0, abs=1e-4)
        assert answer.missing == ()
    assert "New" in [item.title for item in recommender.recommend([Query("films", num_results=41)])[0].items]


def test_a_model_without_adapters_answers_from_the_universal_distribution_alone(
    catalog: Catalog, tmp_path: Path
) -> None:
    plain = Recommender(LanguageModel(random_backbone(), VOCABULARY), catalog, max_history=4, beam_width=40)
    unmixed = adapted_model(tmp_path, gammas={"films": 0.0, "books": 0.0})
    queries = [Query(domain, HISTORY, num_results=5) for domain in COUNTS]
    assert_same(Recommender(unmixed, catalog, 4, 40).recommend(queries), plain.recommend(queries))


def test_removed_items_are_as_if_they_had_never_been_and_hidden_ones_keep_their_part(
    model: LanguageModel, catalog: Catalog
) -> None:
    gone = [("films", f"f{place}") for place in range(5, 20)] + [("one-item", "o0")]
    kept = [catalog.item(number) for number in range(len(catalog))]
    kept = [item for item in kept if (item.domain, item.item_id) not in gone]
    without = Recommender(model, catalog.without_items(gone, 2), max_history=4, beam_width=40)
    anew = Recommender(model, create_catalog(kept, SIZES), max_history=4, beam_width=40)
    queries = [Query(domain, HISTORY, num_results=40) for domain in ("films", "books", "songs")]
    assert_same(without.recommend(queries), anew.recommend(queries))
    with pytest.raises(UnknownDomainError):
        without.recommend([Query("one-item")])

    hidden = Recommender(model, catalog.with_hidden(gone[:5], 2), max_history=4, beam_width=40)
    query = Query("films", HISTORY, num_results=40, exclude_history=False)
    (answer,) = hidden.recommend([query])
    expected = exhaustive(hidden, query)
    assert ids(answer) == [item_id for item_id in expected if ("films", item_id) not in gone[:5]]
    assert scores(answer) == pytest.approx([expected[item_id] for item_id in ids(answer)], abs=1e-4)


def test_what_neighbours_knew_of_removed_items_goes_to_the_others(model: LanguageModel, catalog: Catalog) -> None:
    numbers = catalog.index("films").number_of_leaf.astype(np.int64)
    begin = np.full(len(catalog) + 1, 0)
    begin[int(numbers[0]) + 1 :] = 3
    lists = NeighbourLists(begin, numbers[[1, 2, 3]].astype(np.int32), np.array([0.5, 0.3, 0.2], dtype=np.float32))
    popularity = np.zeros(len(catalog), dtype=np.float32)
    popularity[numbers[:8]] = 1 / 8
    shares = {"films": Shares(transitions=0.4, popularity=0.2)}
    neighbours = Neighbours(lists, GrownLists(lists), popularity, shares, Shares(), Reading())
    first = catalog.name(int(numbers[0]))[0]
    gone = [catalog.name(int(number))[0] for number in numbers[[2, 7]]]
    changed = catalog.without_items([("films", item_id) for item_id in gone], 2)
    popular = [("films", catalog.name(int(number))[0]) for number in numbers[:8]]
    for snapshot, count in ((catalog, 40), (changed, 38), (catalog.without_items(popular, 2), 32)):
        recommender = Recommender(model, snapshot, max_history=4, beam_width=40, neighbours=neighbours)
        (answer,) = recommender.recommend([Query("films", (("films", first),), 40, exclude_history=False)])
        assert len(answer.items) == count
        assert sum(np.exp(scores(answer))) == pytest.approx(1.0, abs=1e-4)
        assert not set(ids(answer)) & set(gone) or snapshot is catalog


def test_scores_with_routed_shares_borrowers_and_events_are_those_of_exhaustive_scoring(
    model: LanguageModel, catalog: Catalog
) -> None:
    rng = np.random.default_rng(3)
    films = np.sort(catalog.index("films").number_of_leaf.astype(np.int64))
    count = len(FEATURES)

    def lists(length: int) -> NeighbourLists:
        own = np.isin(np.arange(len(catalog)), films)
        items = np.concatenate([rng.choice(films, length, replace=False) for _ in films]).astype(np.int32)
        return NeighbourLists(np.concatenate([[0], np.cumsum(own * length)]), items, rng.random(len(items), np.float32))

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    popularity = np.zeros(len(catalog), dtype=np.float32)
    popularity[films] = 1 / len(films)
    router = MemoryRouter(
        np.zeros(count, np.float32),
        np.ones(count, np.float32),
        weights(5, count),
        weights(5),
        weights(4, 5),
        weights(4),
        1.5,
    )
    neighbours = Neighbours(
        lists(6),
        GrownLists(lists(4)),
        popularity,
        {"films": Shares(0.4, 0.2, 0.1)},
        Shares(),
        Reading(smoothing=2.0, borrowing=1.0),
        routers={"films": router},
        borrowers=lists(1),
    ).with_transitions(TransitionDelta().added(films[:20], films[20:], rng.random(20) + 0.1))
    recommender = Recommender(model, catalog, max_history=4, beam_width=3, neighbours=neighbours)
    plain = Recommender(model, catalog, max_history=4, beam_width=3)
    told = set()
    queries = [Query("films", tuple(("films", f"f{place}") for place in own), 3) for own in ((1,), (2, 9), (30, 4, 7))]
    for query, answer in zip(queries, recommender.recommend(queries), strict=True):
        known = neighbours.known_of("films", recommender.understand(query).own)
        items, masses = known.listed()
        rest = 1 - known.shares.popularity - masses.sum()
        listed = dict(zip(items.tolist(), masses.tolist(), strict=True))
        for item_id, score in zip(ids(answer), scores(answer), strict=True):
            number = catalog.find("films", item_id)
            assert number is not None
            chance = rest * np.exp(exhaustive(plain, query)[item_id])
            chance += listed.get(number, 0.0) + known.shares.popularity * popularity[number]
            assert score == pytest.approx(np.log(chance), abs=1e-4)
        told.add(round(known.shares.transitions, 6))
    assert len(told) == len(queries), "every history has shares of its own"
