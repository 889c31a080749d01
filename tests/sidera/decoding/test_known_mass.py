from dataclasses import replace

import numpy as np
import pytest
import torch

from sidera.beam_search import beam_search
from sidera.decoding.known_mass import KnownMass
from sidera.language_model import LanguageModel
from tests.sidera.worlds import VOCABULARY, Request, World, random_backbone, random_sids


@pytest.fixture(scope="module")
def world() -> World:
    return World(LanguageModel(random_backbone(), VOCABULARY), {"films": random_sids(np.random.default_rng(5), 50)})


def test_the_mass_of_a_range_is_the_sum_of_its_leaves() -> None:
    known = KnownMass.build(
        [np.array([7, 2, 4]), np.array([5])],
        [np.array([0.1, 0.2, 0.05]), np.array([0.5])],
        [0.25, 0.0],
        torch.tensor([0, 0, 0.5, 0.5, 0.75, 0.75, 1, 1, 1], dtype=torch.float64),
    )
    assert known is not None
    boundary_BKX = torch.tensor([[[0, 2, 5, 5], [3, 4, 7, 8]], [[0, 5, 6, 8], [3, 3, 3, 3]]])
    expected = [
        [[0.25 * 0.5, 0.2 + 0.05 + 0.25 * 0.25, 0.0], [0.25 * 0.25, 0.05 + 0.25 * 0.25, 0.1]],
        [[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]],
    ]
    found = known.log_mass(boundary_BKX).exp().tolist()
    assert found == [[pytest.approx(row) for row in rows] for rows in expected]
    assert known.rest_B.tolist() == pytest.approx([0.4, 0.5])


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
