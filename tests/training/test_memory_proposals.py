"""What all parts of the mixture propose for validation targets, and what shares and routers are chosen on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidera.items.history_reader import HistoryReader
from sidera.items.memory_reading import side_by_side, summed
from sidera.items.memory_router import FEATURES
from sidera.items.neighbours import GrownLists, NeighbourLists, Neighbours, Reading, Shares
from tests.training.test_neighbour_stage import World
from training.evaluation import query_of
from training.memory_proposals import Proposals, Proposed
from training.mixture_shares import Candidates
from training.neighbour_lists import joined, popularity_of, rule_of, transitions_of
from training.split import Part, Target, targets

KNOWN = 24
"""Items of the domain that the reader knows."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_encoder: Path) -> World:
    return World(tmp_path_factory.mktemp("proposals") / "one", tiny_data, tiny_encoder, longest=1000)


@pytest.fixture(scope="module")
def numbers(world: World) -> np.ndarray:
    """Of the items of domain 0."""
    domain = world.run.dataset.domains[0]
    return np.array([world.catalog.find(domain.name, item_id) for item_id in domain.item_ids], dtype=np.int64)


def reader_of(numbers: np.ndarray, share: float) -> HistoryReader:
    """Knows some of the items only."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return HistoryReader(
        np.sort(numbers[:KNOWN]),
        *(drawn(KNOWN, 4), drawn(KNOWN, 4), drawn(KNOWN), drawn(2)),
        *(drawn(8, 4), drawn(8), drawn(4, 8), drawn(4)),
        share=share,
    )


def alike_of(numbers: np.ndarray, items: int) -> NeighbourLists:
    """Every other item of the domain is like its next two."""
    rows: dict[int, list[int]] = {
        int(number): [int(numbers[(row + 1) % len(numbers)]), int(numbers[(row + 2) % len(numbers)])]
        for row, number in enumerate(numbers)
        if row % 2
    }
    lengths = [len(rows.get(item, [])) for item in range(items)]
    entries = [other for item in range(items) for other in rows.get(item, [])]
    weight_X = np.linspace(0.1, 1, len(entries)).astype(np.float32)
    return NeighbourLists(np.cumsum([0, *lengths]), np.array(entries, dtype=np.int32), weight_X)


@pytest.fixture(scope="module")
def listed(world: World, numbers: np.ndarray) -> Neighbours:
    """The lists of domain 0. Of histories of one item, the reader or the lists of items alike may know nothing."""
    run, catalog = world.run, world.catalog
    domain, rule = run.dataset.domains[0], rule_of(run.config.neighbours, run.events)
    count, name = len(domain.item_ids), domain.name
    popularity = np.zeros(len(catalog), dtype=np.float32)
    popularity[numbers] = popularity_of(run.events, 0, count)
    return Neighbours(
        joined({name: transitions_of(run.events, 0, count, rule)}, {name: numbers}, len(catalog)),
        GrownLists(alike_of(numbers, len(catalog))),
        popularity,
        {},
        Shares(),
        Reading(smoothing=1.0, recent=2),
        rule,
        readers={name: reader_of(numbers, 0.4)},
    )


def proposals(world: World, known: Neighbours) -> Proposals:
    return Proposals(world.run.recommender(world.model, world.catalog), known, world.run.dataset.domains, 0)


def validation(world: World) -> list[Target]:
    """Of whole histories, of their newest item only, and of none."""
    own = [target for target in targets(world.run.events, Part.VALIDATION) if target.domain == 0][:30]
    newest = [replace(target, history=tuple(pair for pair in target.history if pair[0] == 0)[-1:]) for target in own]
    return [*own[:10], *newest, replace(own[0], history=())]


@pytest.fixture(scope="module")
def proposed(world: World, listed: Neighbours) -> list[Proposed]:
    return proposals(world, listed).of(validation(world))


def items_of(own: Proposed, numbers: np.ndarray, popular: np.ndarray) -> list[int]:
    """The candidates of a target: all that is proposed, but for its history."""
    every = {*popular.tolist()}
    for found_S, _ in (own.followers, own.alike, own.read, own.ours):
        every |= set(found_S.tolist())
    return sorted(every - set(own.history))


def masses(found: tuple[np.ndarray, np.ndarray], items: Sequence[int]) -> np.ndarray:
    of = dict(zip(found[0].tolist(), found[1].tolist(), strict=True))
    return np.array([of.get(item, 0.0) for item in items])


def test_a_target_is_proposed_what_lists_reader_and_model_say_of_its_history(
    world: World, listed: Neighbours, numbers: np.ndarray, proposed: list[Proposed]
) -> None:
    recommender, domains = world.run.recommender(world.model, world.catalog), world.run.dataset.domains
    [reader] = listed.readers.values()
    for target, own in zip(validation(world), proposed, strict=True):
        history = [int(numbers[item]) for domain, item in target.history if domain == 0]
        assert (list(own.history), own.target) == (history, numbers[target.item])
        for found, expected in (
            (own.followers, listed.followers(history)),
            (own.alike, listed.alike(history)),
            (own.read, summed(reader.read(history))),
        ):
            assert found[0].tolist() == expected[0].tolist()
            assert found[1].tolist() == expected[1].tolist()
        # The domain has fewer items than are asked for.
        query = replace(query_of(target, domains), num_results=len(numbers), beam_width=len(numbers))
        [answer] = recommender.recommend([query])
        said = {world.catalog.find("books", item.item_id): np.exp(item.score) for item in answer.items}
        assert dict(zip(own.ours[0].tolist(), own.ours[1].tolist(), strict=True)) == pytest.approx(said, rel=1e-4)
    assert proposals(world, listed).of([]) == []


def test_shares_apart_score_as_the_readers_share_does_within_items_alike(
    world: World, listed: Neighbours, proposed: list[Proposed]
) -> None:
    apart = proposals(world, listed).apart(proposed)
    cases = {(bool(len(own.alike[0])), bool(len(own.read[0]))) for own in proposed}
    assert cases == {(True, True), (True, False), (False, True), (False, False)}
    name = next(iter(listed.readers))
    for followed, alike, read, popular in ((0.3, 0.1, 0.3, 0.1), (0.2, 0.5, 0.0, 0.0), (0.0, 0.0, 0.6, 0.2)):
        rest = 1 - followed - alike - read - popular
        reader = replace(listed.readers[name], share=read / (alike + read))
        asked = proposals(world, replace(listed, readers={name: reader})).asked(proposed)
        for one, other in zip(apart, asked.candidates, strict=True):
            assert one.target == other.target
            np.testing.assert_allclose(
                np.array([followed, alike, read, popular, rest]) @ one.mass_GC,
                np.array([followed, alike + read, popular, rest]) @ other.mass_GC,
                atol=1e-9,
            )


def test_what_a_part_leaves_of_its_mass_is_the_language_models(
    world: World, listed: Neighbours, numbers: np.ndarray, proposed: list[Proposed]
) -> None:
    asked = proposals(world, listed).asked(proposed)
    for own, found in zip(proposed, asked.candidates, strict=True):
        items = items_of(own, numbers, numbers)
        likes = listed.likes("books", own.history)
        ours = masses(own.ours, items)
        assert found.mass_GC.shape == (4, len(items))
        np.testing.assert_allclose(found.mass_GC[3], ours)
        np.testing.assert_allclose(found.mass_GC[2], listed.popularity[items])
        for mass_C, part in ((found.mass_GC[0], own.followers), (found.mass_GC[1], likes)):
            np.testing.assert_allclose(mass_C, masses(part, items) + (1 - part[1].sum()) * ours, atol=1e-12)
    assert any(0 < own.followers[1].sum() < 0.99 for own in proposed)
    alone = next(row for row, own in enumerate(proposed) if not own.history)
    np.testing.assert_allclose(asked.candidates[alone].mass_GC[1], asked.candidates[alone].mass_GC[3])


def test_a_target_has_its_place_among_the_candidates_unless_its_history_holds_it(
    world: World, listed: Neighbours, numbers: np.ndarray, proposed: list[Proposed]
) -> None:
    own = proposed[0]
    again = replace(own, target=own.history[-1])
    asked, apart = (getattr(proposals(world, listed), name)([own, again]) for name in ("asked", "apart"))
    place = items_of(own, numbers, numbers).index(own.target)
    first: Candidates
    for first, second in (asked.candidates, apart):
        assert first.target == place
        assert second.target is None
        assert first.mass_GC.shape[1] == second.mass_GC.shape[1] == len(items_of(own, numbers, numbers))


def test_of_model_and_popularity_only_the_first_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, world: World, listed: Neighbours, numbers: np.ndarray
) -> None:
    monkeypatch.setattr("training.memory_proposals._PROPOSED", 5)
    few = proposals(world, listed)
    proposed = few.of(validation(world)[:3])
    popular = numbers[np.argsort(-listed.popularity[numbers], kind="stable")[:5]]
    for own, found in zip(proposed, few.asked(proposed).candidates, strict=True):
        assert len(own.ours[0]) == 5
        items = items_of(own, numbers, popular)
        assert found.mass_GC.shape == (4, len(items))
        # Of all candidates the popularity is known, whoever proposed them.
        np.testing.assert_allclose(found.mass_GC[2], listed.popularity[items])


def test_the_router_reads_what_is_known_of_each_history(
    world: World, listed: Neighbours, proposed: list[Proposed]
) -> None:
    asked = proposals(world, listed).asked(proposed)
    assert asked.features_XF.shape == (len(proposed), len(FEATURES))
    for own, features_F in zip(proposed, asked.features_XF, strict=True):
        _, followed_S, alike_S = side_by_side(listed.followers(own.history), listed.likes("books", own.history))
        assert features_F.tolist() == listed.features(own.history, followed_S, alike_S).tolist()
    none = proposals(world, listed).asked([])
    assert (list(none.candidates), none.features_XF.shape) == ([], (0, len(FEATURES)))


def test_apart_a_silent_part_lets_the_other_speak(world: World, listed: Neighbours, proposed: list[Proposed]) -> None:
    by_case = {(bool(len(own.alike[0])), bool(len(own.read[0]))): own for own in proposed}
    for (alike, read), own in by_case.items():
        [found] = proposals(world, listed).apart([own])
        assert len(found.mass_GC) == 5
        same = np.allclose(found.mass_GC[1], found.mass_GC[2])
        assert same is not (alike and read)
        if not alike and not read:
            np.testing.assert_allclose(found.mass_GC[1], found.mass_GC[4])
