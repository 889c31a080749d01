"""The obvious way to score an item, against an even more obvious one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sidera.item_scores import read_items
from tests.sidera.worlds import Request, World, adapted_model, random_sids

HISTORY = (("films", (1, 2, 3)), ("songs", (0, 0, 5)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    rng = np.random.default_rng(0)
    model = adapted_model(tmp_path_factory.mktemp("adapters"))
    return World(model, {"books": random_sids(rng, 25), "films": random_sids(rng, 30), "songs": [(1, 1, 1)]})


def test_items_of_several_domains_with_ragged_prompts_get_their_scores_in_one_batch(world: World) -> None:
    requests = [Request("books", (), gamma=0.4), Request("films", HISTORY, gamma=0.9), Request("songs", HISTORY[:1])]
    asked = [(request, sid) for request in requests for sid in world.sids[request.domain]]
    leaves_B = torch.tensor([world.leaves(request.domain, [sid])[0] for request, sid in asked])
    adapters_B = torch.tensor([world.adapter(request) for request, _ in asked])
    prompts = [world.prompt(request) for request, _ in asked]
    mass_MB, _ = read_items(world.model, world.tables, prompts, leaves_B, adapters_B)
    gamma_B = torch.tensor([request.gamma for request, _ in asked])
    scores_B = torch.logsumexp(mass_MB + torch.stack([torch.log1p(-gamma_B), gamma_B.log()]), dim=0)
    scores_of = [{sid: score for score, sid in world.exhaustive(request)} for request in requests]
    expected = [scores_of[requests.index(request)][sid] for request, sid in asked]
    assert scores_B.tolist() == pytest.approx(expected, rel=0, abs=1e-4)


def test_without_adapters_there_is_one_distribution_and_it_sums_to_one(world: World) -> None:
    leaves_B = torch.tensor(world.leaves("films", world.sids["films"]))
    prompt = world.prompt(Request("films", HISTORY))
    mass_MB, _ = read_items(world.model, world.tables, [prompt] * len(leaves_B), leaves_B)
    assert mass_MB.shape == (1, 30)
    assert float(mass_MB.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_an_only_item_is_certain(tmp_path: Path) -> None:
    world = World(adapted_model(tmp_path), {"films": [(4, 3, 5)]})
    assert read_items(world.model, world.tables, [world.prompt(Request())], torch.tensor([0]))[0].tolist() == [[0.0]]
