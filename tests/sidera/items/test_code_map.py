"""Items are mapped, and found near a SID, by what their codes stand for."""

import numpy as np
import numpy.typing as npt
import pytest

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.items import code_map
from sidera.items.code_map import item_map, near_items

SIZES = (4, 4)


def vectors(sids_NL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """The first code turns ten times as far as the second one."""
    angle_N = (10 * sids_NL[:, 0] + sids_NL[:, 1]) * np.pi / 180
    return np.stack([np.cos(angle_N), np.sin(angle_N), np.zeros_like(angle_N)], axis=1).astype(np.float32)


def item(domain: str, *sid: int) -> CatalogItem:
    return CatalogItem(domain, f"{domain}-{sid[0]}{sid[1]}", sid, f"Film {sid[0]}{sid[1]}", {})


def catalog() -> Catalog:
    comedies = [item("comedy", 0, 0), item("comedy", 2, 3)]
    return create_catalog([*comedies, *(item("drama", first, last) for first in range(4) for last in (0, 1))], SIZES)


def near(sid: tuple[int, int], most: int = 2, without: str | None = None) -> list[tuple[str, int]]:
    [found] = near_items(catalog(), np.array([sid], dtype=np.int32), most, vectors, without)
    return [(one.item_id, one.shared) for one in found]


def test_the_nearest_items_of_all_domains_come_first() -> None:
    assert near((2, 3), 3) == [("comedy-23", 2), ("drama-21", 1), ("drama-20", 1)]
    assert near((0, 0)) == [("comedy-00", 2), ("drama-00", 2)]


def test_a_domain_can_be_left_out() -> None:
    assert near((2, 3), 1, without="comedy") == [("drama-21", 1)]


def test_of_a_large_domain_those_are_compared_that_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = near((1, 1), 3)
    assert everything == [("drama-11", 2), ("drama-10", 1), ("drama-20", 0)]
    monkeypatch.setattr(code_map, "COMPARED_ITEMS", 4)
    assert near((1, 1), 2) == everything[:2]
    seen: list[int] = []

    def counted(sids_NL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        seen.append(len(sids_NL))
        return vectors(sids_NL)

    near_items(catalog(), np.array([[1, 1]], dtype=np.int32), 2, counted)
    assert max(seen) <= 4


def test_similarity_is_the_cosine_of_what_the_codes_stand_for() -> None:
    [[one]] = near_items(catalog(), np.array([[3, 3]], dtype=np.int32), 1, vectors)
    assert (one.domain, one.title, one.sid) == ("drama", "Film 31", (3, 1))
    assert one.similarity == pytest.approx(np.cos(2 * np.pi / 180))


def test_a_registered_item_is_near_and_a_deleted_one_is_not() -> None:
    changed = catalog().with_changes(2, removed=[("drama", "drama-30")], items=[item("new", 3, 0)])
    [[one, other]] = near_items(changed, np.array([[3, 0]], dtype=np.int32), 2, vectors)
    assert (one.item_id, other.item_id) == ("new-30", "drama-31")


def test_the_map_keeps_the_distances_along_the_two_widest_directions() -> None:
    drawn = item_map(catalog(), lambda sids_NL: (sids_NL * np.array([1, 0.5])).astype(np.float32))
    places = {one.item_id: (one.x, one.y) for one in drawn.items}
    assert len(places) == 10
    assert sum(drawn.variance) == pytest.approx(1)
    assert drawn.variance[0] > drawn.variance[1]
    assert max(abs(number) for place in places.values() for number in place) == pytest.approx(1)
    assert places["comedy-00"] == pytest.approx(places["drama-00"])

    def distance(one: str, other: str) -> float:
        return float(np.hypot(*np.subtract(places[one], places[other])))

    assert distance("drama-00", "drama-30") == pytest.approx(6 * distance("drama-00", "drama-01"))


def test_items_that_do_not_differ_lie_in_one_place() -> None:
    drawn = item_map(catalog(), lambda sids_NL: np.ones((len(sids_NL), 1), dtype=np.float32))
    assert {(one.x, one.y) for one in drawn.items} == {(0.0, 0.0)}
    assert drawn.variance == (0.0, 0.0)


def test_a_large_catalog_is_sampled_in_proportion_and_a_small_domain_is_on_the_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(code_map, "MAPPED_ITEMS", 4)
    domains = [one.domain for one in item_map(catalog(), vectors).items]
    assert domains == ["comedy", "drama", "drama", "drama"]
