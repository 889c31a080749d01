"""The search, its filters, its mixture and its history cache give on every device what the slow way gives on a CPU.

A device that is not there is skipped.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sidera.beam_search import SearchBatch, beam_search
from sidera.decoding import walk
from sidera.decoding.leaf_filter import LeafFilter
from sidera.model.user_router import Mixture
from sidera.trie import build_trie, tables_of
from tests.sidera.worlds import SIZES, Request, World, adapted_model, random_sids

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=no_gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """On the CPU, where it is searched the slow way."""
    rng = np.random.default_rng(11)
    return World(adapted_model(tmp_path / "slow"), {"films": random_sids(rng, 60), "books": random_sids(rng, 25)})


def requests(world: World, gammas: tuple[float, ...]) -> list[Request]:
    """Histories of different lengths, two domains, and items that must not come back."""
    films, books = world.sids["films"], world.sids["books"]
    return [
        Request("films", (), 8, gammas[0]),
        Request("books", (("films", films[3]), ("books", books[1]), ("films", films[7])), 8, gammas[1]),
        Request("films", (("books", books[4]),), 8, gammas[2], blocked=frozenset(films[::2])),
    ]


def moved(world: World, asked: list[Request], device: torch.device) -> SearchBatch:
    batch = world.batch(asked)
    constant_MB, adapters_B = batch.mixture.constant_MB, batch.mixture.adapters_B
    blocked = [world.leaves(request.domain, request.blocked) for request in asked]
    return replace(
        batch,
        tokens_BP=batch.tokens_BP.to(device),
        lengths_B=batch.lengths_B.to(device),
        roots_B=batch.roots_B.to(device),
        mixture=Mixture(constant_MB.to(device), None if adapters_B is None else adapters_B.to(device)),
        num_results_B=batch.num_results_B.to(device),
        filter=LeafFilter.build(blocked, device=device),
    )


@pytest.mark.parametrize("gammas", [(0.0, 0.0, 0.0), (0.3, 0.8, 0.0), (1.0, 0.5, 0.5)])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("ahead", [0, 10_000])
def test_every_device_gives_the_exhaustive_ranking(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    device: torch.device,
    gammas: tuple[float, ...],
    cached: bool,
    ahead: int,
) -> None:
    monkeypatch.setattr(walk, "_PASS_TOKENS", {device.type: ahead})
    model = adapted_model(tmp_path / "fast")
    torch.nn.Module.to(model.backbone, device)
    if cached:
        model.keep_histories(2**24)
    tables = tables_of([build_trie(np.array(sids), SIZES)[0] for sids in world.sids.values()], device)
    asked = requests(world, gammas)
    batch = moved(world, asked, device)
    for _ in range(2):  # with a cache the second one finds the histories
        found = beam_search(model, tables, batch, 120)
        assert bool(found.certified_B.all())
        for row, request in enumerate(asked):
            expected = world.exhaustive(request)[:8]
            assert int(found.counts_B[row]) == len(expected)
            scores = found.scores_BK[row, :8].tolist()
            assert scores == pytest.approx([score for score, _ in expected], rel=0, abs=1e-4)
            first = world.first_leaf[request.domain]
            sids = [world.sids[request.domain][leaf - first] for leaf in found.leaves_BK[row, :8].tolist()]
            assert set(sids) == {sid for _, sid in expected}
    assert model.history_cache is None or model.history_cache.hits == 2
