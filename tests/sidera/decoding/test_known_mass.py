import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidera.beam_search import beam_search
from sidera.decoding.known_mass import AllSums, KnownMass, ListedSums
from sidera.language_model import LanguageModel
from tests.sidera.worlds import VOCABULARY, Request, World, random_backbone, random_sids


@pytest.fixture(scope="module")
def world() -> World:
    return World(LanguageModel(random_backbone(), VOCABULARY), {"films": random_sids(np.random.default_rng(5), 50)})


@pytest.mark.parametrize(("few_sums", "kind"), [(0, ListedSums), (100, AllSums)])
def test_the_mass_of_a_range_is_the_sum_of_its_leaves(
    few_sums: int, kind: type[ListedSums | AllSums], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidera.decoding.known_mass._FEW_SUMS", few_sums)
    known = KnownMass.build(
        [np.array([7, 2, 4]), np.array([5])],
        [np.array([0.1, 0.2, 0.05]), np.array([0.5])],
        [0.25, 0.0],
        torch.tensor([0, 0, 0.5, 0.5, 0.75, 0.75, 1, 1, 1], dtype=torch.float64),
    )
    assert known is not None
    assert isinstance(known.sums, kind)
    boundary_BKX = torch.tensor([[[0, 2, 5, 5], [3, 4, 7, 8]], [[0, 5, 6, 8], [3, 3, 3, 3]]])
    expected = [
        [[0.25 * 0.5, 0.2 + 0.05 + 0.25 * 0.25, 0.0], [0.25 * 0.25, 0.05 + 0.25 * 0.25, 0.1]],
        [[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]],
    ]
    found = known.log_mass(boundary_BKX).exp().tolist()
    assert found == [[pytest.approx(row) for row in rows] for rows in expected]
    assert known.rest_B.tolist() == pytest.approx([0.4, 0.5])


MASSES = st.dictionaries(st.integers(0, 39), st.floats(0, 1 / 64), max_size=30)


@given(st.lists(st.tuples(MASSES, st.floats(0, 0.5)), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_sums_of_all_leaves_give_the_bits_that_a_search_in_the_listed_ones_gives(
    requests: list[tuple[dict[int, float], float]], draw: random.Random
) -> None:
    shared_N = np.array([draw.random() + 0.01 for _ in range(40)])
    shared_below_N = torch.from_numpy(np.concatenate([[0.0], np.cumsum(shared_N / shared_N.sum())]))
    leaves = [np.array(list(own), dtype=np.int64) for own, _ in requests]
    masses = [np.array(list(own.values())) for own, _ in requests]
    weight_B = torch.tensor([weight for _, weight in requests], dtype=torch.float64)
    boundary_BX = torch.tensor([draw.choices(range(41), k=24) for _ in requests])
    listed = ListedSums.of(leaves, masses, weight_B, shared_below_N)
    whole = AllSums.of(leaves, masses, weight_B, shared_below_N)
    assert torch.equal(listed.before(boundary_BX), whole.before(boundary_BX))


def test_where_nothing_is_known_there_is_nothing_to_add() -> None:
    nobody, nothing = np.empty(0, dtype=np.int64), np.empty(0)
    assert KnownMass.build([nobody, nobody], [nothing, nothing], [0.0, 0.0]) is None


def test_a_search_with_known_mass_still_sums_to_one(world: World) -> None:
    sids = world.sids["films"]
    request = Request(num_results=50, known=((sids[3], 0.3), (sids[40], 0.2)), shared=0.25)
    scores = world.search([request], 50)[0].scores
    assert float(np.exp(scores).sum()) == pytest.approx(1.0, abs=1e-5)


def test_an_item_that_the_beams_alone_would_miss_is_found_where_its_mass_is_known(world: World) -> None:
    worst = world.exhaustive(Request())[-1][1]
    assert worst not in world.search([Request(num_results=1)], 1)[0].sids
    found = world.search([Request(num_results=1, known=((worst, 0.9),))], 1)[0]
    assert found.sids == [worst]
    assert found.certified


def test_known_mass_that_leaves_nothing_to_the_model_gives_the_known_items_and_no_other(world: World) -> None:
    sids = world.sids["films"]
    request = Request(num_results=5, known=((sids[10], 0.75), (sids[20], 0.25)))
    found = world.search([request], 20)[0]
    assert found.sids == [sids[10], sids[20]]
    assert found.scores == pytest.approx(np.log([0.75, 0.25]), abs=1e-5)


def test_a_request_with_nothing_known_is_answered_as_without_the_others_of_its_batch(world: World) -> None:
    plain = Request(num_results=10)
    other = replace(plain, known=((world.sids["films"][0], 0.5),), shared=0.1)
    alone, together = world.search([plain], 20)[0], world.search([plain, other], 20)[0]
    assert together.sids == alone.sids
    assert together.scores == pytest.approx(alone.scores, abs=1e-5)
    without = replace(world.batch([plain]), known=None)
    assert beam_search(world.model, world.tables, without, 20).scores_BK[0, :10].tolist() == pytest.approx(alone.scores)
