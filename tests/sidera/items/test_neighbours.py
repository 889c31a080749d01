import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sidera.disk_arrays import open_tensors
from sidera.errors import CatalogError
from sidera.folded_bundle import renumbered
from sidera.items.borrowing import Borrowers
from sidera.items.history_reader import HistoryReader
from sidera.items.memory_router import FEATURES, MemoryRouter
from sidera.items.neighbours import (
    GrownLists,
    NeighbourLists,
    Neighbours,
    Reading,
    Shares,
    load_neighbours,
    save_neighbours,
)
from sidera.items.transitions import TransitionDelta, TransitionRule

FOLLOWERS = {0: {1: 3.0, 2: 1.0}, 1: {0: 2.0}}
ALIKE = {0: {3: 0.5}, 2: {3: 0.25, 0: 0.75}}


def lists_of(listed: dict[int, dict[int, float]], items: int = 4) -> NeighbourLists:
    rows = [listed.get(item, {}) for item in range(items)]
    return NeighbourLists(
        np.cumsum([0, *map(len, rows)]),
        np.array([other for row in rows for other in row], dtype=np.int32),
        np.array([weight for row in rows for weight in row.values()], dtype=np.float32),
    )


def made(shares: Shares = Shares(0.4, 0.2, 0.1), **reading: Any) -> Neighbours:  # noqa: B008
    popularity = np.array([0.5, 0.5, 0, 0], dtype=np.float32)
    return Neighbours(
        lists_of(FOLLOWERS),
        GrownLists(lists_of(ALIKE)),
        popularity,
        {"films": shares},
        Shares(similar=0.5),
        Reading(**reading),
    )


def as_dict(found: tuple[np.ndarray, np.ndarray]) -> dict[int, float]:
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


def test_the_newest_item_counts_most_and_masses_sum_to_one() -> None:
    found = as_dict(made(recent=5, decay=0.5).followers([1, 0]))
    assert found == pytest.approx({1: 0.75 / 1.5, 2: 0.25 / 1.5, 0: 0.5 / 1.5})


def test_a_discount_is_taken_from_every_count_and_what_it_leaves_nothing_of_is_not_listed() -> None:
    found = as_dict(made(recent=1, smoothing=4.0, discount=0.5).followers([0]))
    assert found == pytest.approx({1: 2.5 / 8, 2: 0.5 / 8})
    assert as_dict(made(recent=1, smoothing=4.0, discount=1.0).followers([0])) == pytest.approx({1: 2.0 / 8})
    assert as_dict(made(recent=1, discount=3.0).followers([0])) == {}
    assert as_dict(made(recent=1, discount=0.5).likes("films", [0])) == {3: 1.0}


def test_a_discount_fades_as_the_counts_do() -> None:
    rule = TransitionRule(half_life_days=1.0)
    later = replace(made(recent=1, smoothing=4.0, discount=0.5), rule=rule, now=86_400.0)
    # A day on, a new event counts 2, and so do what counts are less and what they are compared with.
    assert as_dict(later.followers([0])) == pytest.approx({1: 2 / 12})


def test_only_the_newest_items_are_read() -> None:
    assert as_dict(made(recent=1, decay=0.5).followers([1, 0])) == pytest.approx({1: 0.75, 2: 0.25})


def test_an_item_without_a_list_leaves_the_others_all_the_mass() -> None:
    assert as_dict(made(recent=5, decay=0.5).followers([0, 3, 2])) == pytest.approx({1: 0.75, 2: 0.25})


def test_nothing_is_known_of_an_empty_history_or_of_items_that_came_later() -> None:
    for numbers in ([], [3], [4], [1000]):
        assert as_dict(made().followers(numbers)) == {}


def test_what_is_known_has_the_shares_of_its_domain() -> None:
    found = as_dict(made(decay=0.0).known("films", [0]))
    assert found == pytest.approx({1: 0.4 * 0.75, 2: 0.4 * 0.25, 3: 0.2})


def test_a_domain_that_training_never_saw_has_items_alike_only() -> None:
    assert as_dict(made(decay=0.0).known("songs", [0])) == pytest.approx({3: 0.5})


def test_shares_beyond_one_mixture_are_refused() -> None:
    with pytest.raises(CatalogError, match="sum to at most 1"):
        Shares(0.7, 0.4)
    with pytest.raises(CatalogError, match="sum to at most 1"):
        Shares(similar=-0.1)


def test_saved_neighbours_are_those_in_memory(tmp_path: Path) -> None:
    save_neighbours(made(recent=3, decay=0.25), tmp_path / "neighbours.safetensors")
    loaded = load_neighbours(tmp_path / "neighbours.safetensors")
    assert (loaded.shares, loaded.unseen, loaded.reading) == (
        {"films": Shares(0.4, 0.2, 0.1)},
        Shares(similar=0.5),
        Reading(3, 0.25),
    )
    assert as_dict(loaded.known("films", [2, 0])) == as_dict(made(recent=3, decay=0.25).known("films", [2, 0]))
    assert loaded.popularity.tolist() == [0.5, 0.5, 0, 0]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CatalogError, match=r"other\.safetensors: no neighbours can be read"):
        load_neighbours(tmp_path / "other.safetensors")


def test_in_a_domain_that_training_never_saw_followers_have_their_whole_share_or_items_alike_have_it() -> None:
    unseen = replace(made(decay=0.0, smoothing=4.0), unseen=Shares(transitions=0.6, similar=0.3))
    assert as_dict(unseen.known("songs", [0])) == pytest.approx({1: 0.6 * 0.75, 2: 0.6 * 0.25, 3: 0.3})
    assert as_dict(unseen.known("songs", [2])) == pytest.approx({0: 0.9 * 0.75, 3: 0.9 * 0.25})


def test_a_router_gives_a_history_its_own_shares_also_after_saving(tmp_path: Path) -> None:
    count = len(FEATURES)
    zero, one = np.zeros(count, np.float32), np.ones(count, np.float32)
    moves = np.array([9, 0, 0, 0], np.float32)  # to followers
    router = MemoryRouter(
        zero, one, np.zeros((2, count), np.float32), zero[:2], np.zeros((4, 2), np.float32), moves, 0.5
    )
    routed = replace(made(decay=0.0), routers={"films": router}, borrowers=lists_of({1: {3: 0.5}}))
    save_neighbours(routed, tmp_path / "neighbours.safetensors")
    loaded = load_neighbours(tmp_path / "neighbours.safetensors")
    for neighbours in (routed, loaded):
        known = neighbours.known_of("films", [0])
        assert known.shares.transitions == pytest.approx(0.4 * np.exp(0.5) / (0.4 * np.exp(0.5) + 0.6), rel=1e-5)
        assert neighbours.shares_of("films") == Shares(0.4, 0.2, 0.1)
    assert as_dict(loaded.known("films", [0])) == pytest.approx(as_dict(routed.known("films", [0])))


def test_borrowing_is_a_setting(tmp_path: Path) -> None:
    lent = lists_of({1: {3: 0.5}})
    without = replace(made(decay=0.0), borrowers=lent)
    assert as_dict(without.followers([0])) == pytest.approx({1: 0.75, 2: 0.25})
    borrowed = replace(made(decay=0.0, borrowing=1.0), borrowers=lent)
    assert as_dict(borrowed.followers([0])) == pytest.approx({1: 0.75 / 1.375, 2: 0.25 / 1.375, 3: 0.375 / 1.375})


def test_who_borrows_is_found_once_however_often_events_change_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[NeighbourLists] = []
    of = Borrowers.of

    def noted(base: NeighbourLists, similar: GrownLists) -> Borrowers:
        found.append(base)
        return of(base, similar)

    monkeypatch.setattr(Borrowers, "of", noted)
    neighbours = replace(made(decay=0.0, borrowing=1.0), borrowers=lists_of({1: {3: 0.5}}))
    before = as_dict(neighbours.followers([0]))
    for now in range(3):
        neighbours = neighbours.with_transitions(TransitionDelta(), float(now))
        assert as_dict(neighbours.followers([0])) == before
    assert len(found) == 1
    joined = GrownLists(neighbours.similar.base, {4: (np.array([2], np.int32), np.array([1.0], np.float32))})
    assert set(as_dict(neighbours.with_similar(joined).followers([0]))) == {1, 2, 3, 4}


def reader(share: float = 0.75, numbers: tuple[int, int] = (0, 2)) -> HistoryReader:
    """Of two items, that is: the others are of another domain."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 2, 3)).astype(np.float32)
    inner_HD, outer_HD = rng.normal(size=(2, 4, 3)).astype(np.float32)
    return HistoryReader(
        np.array(numbers),
        *(vectors[0], vectors[1], np.zeros(2, np.float32), np.ones(1, np.float32)),
        *(inner_HD, inner_HD[:, 0].copy(), outer_HD.T.copy(), outer_HD[0]),
        share=share,
    )


def test_a_reader_has_its_part_of_the_mass_of_items_alike_where_it_knows_the_history() -> None:
    plain = made(decay=0.0)
    said, listed = as_dict(reader().read([2])), as_dict(plain.likes("films", [2]))
    for share in (0.0, 0.25, 0.75):
        with_reader = replace(plain, readers={"films": reader(share)})
        expected = {item: share * said.get(item, 0) + (1 - share) * listed.get(item, 0) for item in {*said, *listed}}
        assert as_dict(with_reader.likes("films", [2])) == pytest.approx(expected)
        assert as_dict(with_reader.likes("films", [1])) == as_dict(plain.likes("films", [1]))
        assert as_dict(with_reader.followers([2])) == as_dict(plain.followers([2]))
        assert as_dict(with_reader.alike([2])) == listed
        found, own = with_reader.read("films", [2])
        assert (as_dict(found), own) == (said, share)
        found, own = with_reader.read("films", [1])
        assert as_dict(found) == {}


def test_lists_have_all_the_mass_where_the_reader_knows_no_item_of_the_history() -> None:
    plain = replace(made(decay=0.0), readers={"films": reader(0.75, numbers=(1, 3))})
    assert as_dict(plain.likes("films", [2])) == {0: 0.75, 3: 0.25}


def test_a_reader_has_all_the_mass_where_no_list_tells_of_items_alike() -> None:
    alone = replace(made(), similar=GrownLists(lists_of({})), readers={"films": reader()})
    assert as_dict(alone.likes("films", [0])) == as_dict(reader().read([0]))


def test_of_several_readers_that_of_the_asked_domain_reads_a_history_with_its_own_share() -> None:
    readers = {"films": reader(0.25), "songs": reader(0.5, numbers=(1, 3))}
    both = replace(made(), readers=readers)
    for domain, number, share in (("films", 0, 0.25), ("films", 2, 0.25), ("songs", 1, 0.5), ("songs", 3, 0.5)):
        found, own = both.read(domain, [number])
        assert own == share
        assert number in as_dict(found)
    found, _ = both.read("films", [1])
    assert as_dict(found) == {}
    found, _ = both.read("books", [0])
    assert as_dict(found) == {}


def test_events_leave_a_reader_as_it_is() -> None:
    before = replace(made(), readers={"films": reader()})
    after = before.with_transitions(TransitionDelta().added(np.array([0]), np.array([2]), np.array([5.0])))
    assert as_dict(after.likes("films", [0])) == as_dict(before.likes("films", [0]))


def test_saved_readers_are_those_in_memory_with_layer_and_share(tmp_path: Path) -> None:
    before = replace(made(), readers={"films": reader(), "songs": reader(0.25, numbers=(1, 3))})
    save_neighbours(before, tmp_path / "neighbours.safetensors")
    loaded = load_neighbours(tmp_path / "neighbours.safetensors")
    assert {name: own.share for name, own in loaded.readers.items()} == {"films": 0.75, "songs": 0.25}
    for name, own in before.readers.items():
        for part, value in vars(own).items():
            assert np.array_equal(getattr(loaded.readers[name], part), value), part
    for numbers in ([0], [1], [2], [3], [0, 2]):
        assert as_dict(loaded.likes("films", numbers)) == as_dict(before.likes("films", numbers))


@pytest.mark.parametrize("readers", [["films"], {"films": "none"}, {"songs": 0.5, "films": 0.5}])
def test_a_file_whose_readers_are_of_another_form_is_refused(tmp_path: Path, readers: Any) -> None:
    path = tmp_path / "neighbours.safetensors"
    save_neighbours(replace(made(), readers={"films": reader()}), path)
    about = {**json.loads(open_tensors(path)[1]["mixture"]), "readers": readers}
    save_file(load_file(path), tmp_path / "other.safetensors", metadata={"mixture": json.dumps(about)})
    with pytest.raises(CatalogError, match=r"other\.safetensors: no neighbours can be read .* export the bundle again"):
        load_neighbours(tmp_path / "other.safetensors")


def test_readers_follow_their_items_to_the_numbers_of_a_folded_bundle() -> None:
    before = replace(made(), readers={"films": reader()})
    # Item 1 is gone, 4 joined later; the new numbers are 0 to 3.
    after = renumbered(before, np.array([3, 2, 4, 0]))
    new_of_old = {3: 0, 2: 1, 4: 2, 0: 3}
    said = as_dict(before.readers["films"].read([2]))
    expected = {new_of_old[item]: mass for item, mass in said.items()}
    assert as_dict(after.readers["films"].read([new_of_old[2]])) == pytest.approx(expected)
    assert after.readers["films"].share == 0.75
