"""Figures measured on samples: dependence, routes, maps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.tokenizers.rqkmeans import RqKMeans
from training.tokenization_samples import dependence_figures, map_figures, route_figures, sample_rows
from training.tokenizers.dependence import cka, hsic


def tokenizer(dim: int = 3, size: int = 8) -> RqKMeans:
    made = RqKMeans(dim, (size, size), dim)
    torch.manual_seed(0)
    with torch.no_grad():
        for codebook in made.quantiser.codebooks:
            codebook.normal_()
    return made.eval().requires_grad_(False)


def world(**sizes: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=(items, 3)).astype(np.float32) for name, items in sizes.items()}


def every_second(vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.arange(len(rows)) % 2 == 0 for name, rows in vectors.items()}


def codes_of(vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tokenizer().encode(torch.from_numpy(rows), name).numpy() for name, rows in vectors.items()}


def test_dependence_is_measured_on_equally_many_held_out_items_of_every_domain() -> None:
    vectors = world(a=90, b=200)
    found = dependence_figures(tokenizer(), vectors, every_second(vectors), codes_of(vectors))
    assert found["items_per_domain"] == 45
    assert {own["fitted_items"] for own in found["domains"].values()} == {0}
    held = torch.from_numpy(vectors["a"][::2])
    quantised = tokenizer().quantised(torch.from_numpy(codes_of(vectors)["a"][::2]))
    assert found["domains"]["a"]["hsic"] == pytest.approx(float(hsic(held, quantised)))
    assert found["domains"]["a"]["cka"] == pytest.approx(float(cka(held, quantised)))
    both = [own["cka"] for own in found["domains"].values()]
    assert found["over_domains"]["cka"] == {
        "mean": pytest.approx(sum(both) / 2),
        "variance": pytest.approx(((both[0] - both[1]) / 2) ** 2),
    }


def test_few_held_out_items_are_filled_up_and_domains_that_are_too_small_have_no_figure() -> None:
    vectors = world(a=40, b=5000, tiny=31)
    held = {name: np.arange(len(rows)) < 10 for name, rows in vectors.items()}
    found = dependence_figures(tokenizer(), vectors, held, codes_of(vectors))
    assert found["items_per_domain"] == 32
    assert {name: own["fitted_items"] for name, own in found["domains"].items()} == {"a": 22, "b": 22}
    nobody = {"tiny": vectors["tiny"]}
    empty = {"items_per_domain": 0, "domains": {}, "over_domains": {}}
    assert dependence_figures(tokenizer(), nobody, held, codes_of(nobody)) == empty


def test_at_most_512_items_of_a_domain_are_compared() -> None:
    vectors = world(a=1100)
    found = dependence_figures(tokenizer(), vectors, every_second(vectors), codes_of(vectors))
    assert found["items_per_domain"] == 512


def test_samples_are_all_rows_or_different_ones_and_the_same_again() -> None:
    assert sample_rows(3, 5).tolist() == [0, 1, 2]
    drawn = sample_rows(100, 10)
    assert len(set(drawn.tolist())) == 10
    assert (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, sample_rows(100, 10))


def test_routes_are_told_by_mean_and_by_largest_share() -> None:
    class Routed(RqKMeans):
        def routes(self, vectors_ND: Tensor, domain: str) -> dict[str, Tensor]:
            return {"one": vectors_ND[:, 0], f"expert {domain}": 1 - vectors_ND[:, 0]}

    rows = torch.tensor([[0.9], [0.4], [0.2], [0.1]])
    assert route_figures(Routed(1, (2, 2), 1), rows, "a") == {
        "mean_share": {"one": pytest.approx(0.4), "expert a": pytest.approx(0.6)},
        "top_share": {"one": 0.25, "expert a": 0.75},
    }
    assert route_figures(tokenizer(), torch.zeros(2, 3), "a") == {}


def test_a_map_keeps_the_distances_of_points_in_a_plane_and_is_drawn_once_where_domains_change_nothing() -> None:
    plane = torch.linalg.qr(torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2)))).Q.float()
    flat = torch.from_numpy(np.random.default_rng(2).normal(size=(20, 2)).astype(np.float32)) * torch.tensor([5.0, 1.0])
    samples = {"a": (flat @ plane.T)[:12], "b": (flat @ plane.T)[12:]}
    maps = map_figures(tokenizer(), samples, 3)
    assert list(maps) == ["after"]
    points = torch.tensor(maps["after"]["a"] + maps["after"]["b"])
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(flat, flat), rtol=0, atol=0.02)
    assert points[:, 0].var() > points[:, 1].var()
    assert maps == map_figures(tokenizer(), samples, 3)


def test_maps_before_and_after_adaptation_lie_on_the_same_axes() -> None:
    class Adapted(RqKMeans):
        def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
            wider = torch.cat([vectors_ND, torch.randn(len(vectors_ND), 1)], dim=1)
            return wider + torch.tensor([100.0, 0, 0, 0]) if domain == "a" else wider

    samples = {name: torch.from_numpy(rows) for name, rows in world(a=30, b=30).items()}
    maps = map_figures(Adapted(3, (2, 2), 3), samples, 3)
    before, after = (torch.tensor(maps[when]["a"]) for when in ("before", "after"))
    torch.testing.assert_close(after - before, torch.tensor([[100.0, 0.0]]).expand(30, 2), rtol=0, atol=1.0)
    assert maps["before"]["b"] == maps["after"]["b"]


@pytest.mark.parametrize(("items", "dim"), [(1, 3), (2, 1)])
def test_a_single_item_or_a_single_component_has_a_map(items: int, dim: int) -> None:
    maps = map_figures(tokenizer(dim), {"a": torch.arange(items * dim).reshape(items, dim).float()}, dim)
    assert len(maps["after"]["a"]) == items
    assert [point[1] for point in maps["after"]["a"]] == [0] * items
