"""HSIC and CKA."""

import pytest
import torch
from torch import Tensor

from training.tokenizers.dependence import cka, gaussian_kernel, hsic, median_bandwidth, squared_pair_distances


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_hsic(x: Tensor, y: Tensor) -> float:
    """Tr(U H V H) / (n - 1)^2, entry by entry."""

    def kernel(rows: Tensor) -> list[list[float]]:
        squares = [[float((a - b).square().sum()) for b in rows] for a in rows]
        pairs = sorted(squares[i][j] for i in range(len(rows)) for j in range(i))
        median = pairs[(len(pairs) - 1) // 2]
        return [
            [float(torch.tensor(-square / (2 * median), dtype=torch.float64).exp()) for square in row]
            for row in squares
        ]

    u, v, n = kernel(x), kernel(y), len(x)
    h = [[float(i == j) - 1 / n for j in range(n)] for i in range(n)]

    def product(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
        return [[sum(a[i][k] * b[k][j] for k in range(n)) for j in range(n)] for i in range(n)]

    uhvh = product(product(u, h), product(v, h))
    return sum(uhvh[i][i] for i in range(n)) / (n - 1) ** 2


@pytest.mark.parametrize("items", [2, 3, 12])
def test_hsic_is_the_trace_of_centred_kernels(items: int) -> None:
    x, y = normal(items, 5), normal(items, 3, seed=1)
    y = y + x[:, :3]
    torch.testing.assert_close(float(hsic(x, y)), naive_hsic(x, y), rtol=1e-9, atol=1e-12)


def test_independent_sides_have_almost_none_and_dependent_ones_much() -> None:
    x = normal(600, 4).float()
    independent, dependent = hsic(x, normal(600, 4, seed=1).float()), hsic(x, x[:, :2].square())
    assert 0 <= float(independent) < 2e-3
    assert float(dependent) > 10 * float(independent)
    assert float(cka(x, normal(600, 4, seed=1).float())) < 0.1


def test_small_samples_of_independent_sides_show_more_than_large_ones() -> None:
    x, y = normal(20, 64, 4), normal(20, 64, 4, seed=1)
    assert float(hsic(x[:, :16], y[:, :16]).mean()) > 2 * float(hsic(x, y).mean())


def test_cka_of_a_side_with_itself_is_one_whatever_is_its_scale_its_place_and_its_axes() -> None:
    x, y = normal(50, 6).float(), normal(50, 6).float() + normal(50, 6, seed=1).float()
    torch.testing.assert_close(cka(x, x), torch.ones(()))
    torch.testing.assert_close(cka(x, 1000 * x - 3), torch.ones(()), rtol=1e-4, atol=0)
    rotation = torch.linalg.qr(normal(6, 6, seed=2).float())[0]
    torch.testing.assert_close(cka(x, x @ rotation), torch.ones(()), rtol=1e-4, atol=0)
    assert 0 < float(cka(x, y)) < 0.999
    torch.testing.assert_close(cka(1e-4 * x, y), cka(x, y), rtol=1e-4, atol=0)


def test_samples_side_by_side_are_measured_one_by_one() -> None:
    x, y = normal(3, 20, 6), normal(3, 20, 2, seed=1)
    for measure in (hsic, cka):
        torch.testing.assert_close(measure(x, y), torch.stack([measure(x[k], y[k]) for k in range(3)]))


def test_the_bandwidth_is_the_median_of_pairs_and_a_constant_for_the_gradient() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
    distances = squared_pair_distances(rows)
    torch.testing.assert_close(distances.detach(), torch.tensor([[0.0, 1, 9], [1, 0, 4], [9, 4, 0]]))
    assert float(median_bandwidth(distances)) == pytest.approx(4.0)
    assert not median_bandwidth(distances).requires_grad
    torch.testing.assert_close(gaussian_kernel(rows)[0, 2], torch.tensor(9 / -8.0).exp())


def test_rows_most_of_which_are_equal_have_the_mean_for_bandwidth_and_equal_rows_no_dependence() -> None:
    mostly = torch.zeros(5, 1)
    mostly[0] = 2.0
    assert float(median_bandwidth(squared_pair_distances(mostly))) == pytest.approx(4 * 4 / 10)
    equal, other = torch.full((8, 3), 0.1), normal(8, 3).float()
    assert float(median_bandwidth(squared_pair_distances(equal))) == 1.0
    assert float(hsic(equal, other)) == pytest.approx(0.0, abs=1e-7)
    assert float(cka(equal, other)) == float(cka(equal, equal)) == 0.0


def test_the_gradient_is_finite_where_rows_are_equal() -> None:
    rows = torch.cat([torch.zeros(4, 3), torch.ones(4, 3)]).requires_grad_()
    for measure in (hsic, cka):
        (gradient,) = torch.autograd.grad(measure(normal(8, 5).float(), rows), rows)
        assert torch.isfinite(gradient).all()
    constant = torch.ones(8, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(cka(normal(8, 5).float(), constant), constant)
    assert torch.isfinite(gradient).all()


def test_a_single_item_says_nothing_and_is_refused() -> None:
    with pytest.raises(ValueError, match="hold 1 items; give at least 2"):
        hsic(normal(1, 4), normal(1, 4))
