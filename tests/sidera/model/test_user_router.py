"""Gamma of a user, and the mixtures that it makes, against the obvious way."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sidera.beam_search import beam_search
from sidera.errors import BackboneError
from sidera.item_scores import item_scores
from sidera.language_model import LanguageModel
from sidera.model.self_test import check_backbone
from sidera.model.user_router import Mixture, UserRouter, load_router, save_router
from tests.sidera.worlds import VOCABULARY, Request, Sid, World, random_backbone, random_sids, write_adapter

HISTORIES = [
    Request("films", (("films", (1, 2, 3)), ("songs", (0, 0, 5)), ("films", (4, 0, 0))), num_results=30),
    Request("songs", (("films", (1, 2, 3)),), num_results=30),
    Request("films", (), num_results=30),
    Request("books", (("books", (2, 1, 1)), ("films", (0, 3, 2))), num_results=30),
    Request("films", (("books", (0, 1, 4)),), num_results=30),
]
"""``films`` has a router, ``books`` a constant of 0.4 (or 1), ``songs`` no adapter."""


def random_router(domains: Sequence[str] = ("films",), sharpness: float = 30.0) -> UserRouter:
    """One whose gammas differ from user to user."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        router = UserRouter(32, 8, domains)
        with torch.no_grad():
            router.mean_D.normal_()
            router.scale_D.uniform_(0.5, 2.0)
            router.output.weight.mul_(sharpness)
    return router


def routed_world(folder: Path, router: UserRouter, books: float = 0.4) -> World:
    backbone = random_backbone()
    folders = {
        "films": write_adapter(folder / "films", backbone, seed=1),
        "books": write_adapter(folder / "books", backbone, seed=2, rank=3),
    }
    model = LanguageModel(backbone, VOCABULARY, folders, {"films": 0.9, "books": books}, router)
    rng = np.random.default_rng(0)
    return World(model, {domain: random_sids(rng, 30) for domain in ("books", "films", "songs")})


def obvious_gamma(world: World, request: Request, books: float = 0.4) -> float:
    """What the router says of the request's prompt when it is read alone and universally."""
    if request.domain != "films":
        return books if request.domain == "books" else 0.0
    router = world.model.router
    assert router is not None
    user_D = world.model.read(torch.tensor([world.prompt(request)]), None)[0, 0, -1]
    both_X = router.bottleneck((user_D - router.mean_D) / router.scale_D)
    logit = router.output(torch.nn.functional.gelu(router.hidden(both_X[:8])))
    return 1 / (1 + math.exp(-float(logit.detach())))


def routed_batch(world: World, requests: Sequence[Request], padding: int = 0) -> dict[int, dict[Sid, float]]:
    """The score of every leaf of every request, from one search."""
    batch = replace(
        world.batch(requests, padding), mixture=world.model.mixture([request.domain for request in requests])
    )
    found = beam_search(world.model, world.tables, batch, 30)
    assert found.counts_B.tolist() == [30] * len(requests)
    scores = {}
    for row, request in enumerate(requests):
        first, own = world.first_leaf[request.domain], world.sids[request.domain]
        sids = [own[leaf - first] for leaf in found.leaves_BK[row].tolist()]
        scores[row] = dict(zip(sids, found.scores_BK[row].tolist(), strict=True))
    return scores


@pytest.mark.parametrize("books", [0.4, 1.0])
def test_a_search_scores_as_exhaustive_mixing_with_the_gamma_of_each_user(tmp_path: Path, books: float) -> None:
    world = routed_world(tmp_path, random_router(), books)
    gammas = [obvious_gamma(world, request, books) for request in HISTORIES]
    assert max(gammas[0], gammas[2], gammas[4]) - min(gammas[0], gammas[2], gammas[4]) > 0.2, "users differ"
    found = routed_batch(world, HISTORIES, padding=2)
    for row, request in enumerate(HISTORIES):
        expected = {sid: score for score, sid in world.exhaustive(replace(request, gamma=gammas[row]))}
        assert found[row] == pytest.approx(expected, rel=0, abs=1e-4)


def test_a_request_has_the_same_gamma_and_scores_alone_and_in_a_batch(tmp_path: Path) -> None:
    world = routed_world(tmp_path, random_router())
    together = routed_batch(world, HISTORIES, padding=3)
    for row, request in enumerate(HISTORIES):
        # Sums of float32 around -13, whose rounding differs between processors.
        assert routed_batch(world, [request])[0] == pytest.approx(together[row], rel=5e-6, abs=1e-5)


def test_given_items_are_scored_as_the_search_scores_them(tmp_path: Path) -> None:
    world = routed_world(tmp_path, random_router())
    for request in HISTORIES:
        found = routed_batch(world, [request])[0]
        leaves_B = torch.tensor(world.leaves(request.domain, world.sids[request.domain]))
        mixture = world.model.mixture([request.domain]).repeated(0, 30)
        plain_B = item_scores(world.model, world.tables, [world.prompt(request)] * 30, leaves_B, mixture)
        assert dict(zip(world.sids[request.domain], plain_B.tolist(), strict=True)) == pytest.approx(found, abs=1e-4)


def test_the_router_is_asked_only_where_a_request_is_for_one_of_its_domains(tmp_path: Path) -> None:
    model = routed_world(tmp_path, random_router(), books=0.0).model
    assert model.mixture(["songs", "books"]).num_distributions == 1
    mixture = model.mixture(["songs", "films", "books"])
    assert mixture.routed_B is not None
    assert mixture.routed_B.tolist() == [False, True, False]
    weights_MB = mixture.log_weights(torch.randn(2, 3, 32)).exp()
    assert weights_MB[:, 0].tolist() == [1.0, 0.0]
    assert weights_MB[:, 2].tolist() == [1.0, 0.0]
    assert float(weights_MB[:, 1].sum()) == pytest.approx(1.0, abs=1e-6)


def test_a_router_that_is_certain_gives_no_nan_and_leaves_the_other_distribution_nothing(tmp_path: Path) -> None:
    for bias in (-1e30, 1e30):
        router = random_router()
        with torch.no_grad():
            router.output.bias.fill_(bias)
        world = routed_world(tmp_path / str(bias), router)
        found = routed_batch(world, [HISTORIES[0], HISTORIES[1]])
        expected = {sid: score for score, sid in world.exhaustive(replace(HISTORIES[0], gamma=float(bias > 0)))}
        assert found[0] == pytest.approx(expected, rel=0, abs=1e-4)


def test_a_backbone_with_a_router_passes_its_self_test(tmp_path: Path) -> None:
    check_backbone(routed_world(tmp_path, random_router()).model, max_history_items=8)


def test_a_router_that_was_saved_and_loaded_says_the_same(tmp_path: Path) -> None:
    router = random_router(("films", "books"))
    save_router(router, tmp_path / "router.safetensors")
    again = load_router(tmp_path / "router.safetensors")
    assert again.domains == ("films", "books")
    user_BD = torch.randn(5, 32)
    assert torch.equal(again(user_BD), router(user_BD))


def test_a_file_that_is_no_router_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "router.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(BackboneError, match=r"router\.safetensors: no user router can be read"):
        load_router(path)
    save_file({"mean_D": torch.zeros(4)}, path)
    with pytest.raises(BackboneError, match="no user router can be read"):
        load_router(path)
    with pytest.raises(BackboneError, match="no user router can be read"):
        load_router(tmp_path / "missing.safetensors")


def test_a_router_of_another_backbone_or_of_a_domain_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="reads vectors of 16, the backbone's have 32"):
        routed_world(tmp_path / "a", UserRouter(16, 8, ("films",)))
    with pytest.raises(BackboneError, match="decides for 'songs', which has no adapter"):
        routed_world(tmp_path / "b", UserRouter(32, 8, ("films", "songs")))


def test_constant_weights_are_those_given(tmp_path: Path) -> None:
    constant_MB = torch.tensor([[0.3, 1.0], [0.7, 0.0]]).log()
    assert torch.equal(Mixture(constant_MB).log_weights(torch.zeros(2, 2, 4)), constant_MB)
