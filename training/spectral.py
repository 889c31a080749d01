"""Spectral coordinates of items: where they lie in the graph of who took them.

The co-occurrence graph joins two items as often as users took both, each user counting 1 / (items taken). It is never
formed: with A the user-item matrix, divided by the square roots of both degrees, the normalised graph is A'A, and its
eigenvectors are the right singular vectors of A. Degrees get their mean added, as in DI-SIM (Rohe, Qin and Yu, PNAS
2016, arXiv 1204.2296), so that tiny islands do not take the first places. Knows nothing of texts or files.

Shapes: E events, U users, N items, K coordinates, L the K and some more.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

MOST_COORDINATES = 256
MOST_NUMBERS = 100_000_000
"""In the matrix of all coordinates (400 MB), of which memory holds a few: catalogs beyond 390,000 items get fewer."""

_OVERSAMPLED = 16
_ITERATIONS = 8
_BLOCK_FLOATS = 16_000_000
_ROUNDING = 1e-5


def spectral_coordinates(
    user_E: npt.NDArray[np.integer], item_E: npt.NDArray[np.integer], items: int, most: int = MOST_COORDINATES
) -> npt.NDArray[np.float32]:
    """The coordinates of every item, scaled by their singular values; each row of length 1, or of zeros.

    A row of zeros is an item that no user took together with another one, or that lies on an island too small to be
    told. A coordinate's sign makes its largest value positive (the first of equal ones). How the users are numbered
    changes nothing, rounding aside; an item that a user took twice counts once.

    Args:
        user_E: user numbers, int[E].
        item_E: item numbers below ``items``, int[E].
        items: N.
        most: coordinates wanted.

    Returns:
        float32[N, K], K = min(most, N, MOST_NUMBERS / N). Coordinates beyond the rank of the graph are 0.
    """
    most = min(most, items, max(1, MOST_NUMBERS // max(1, items)))
    coordinates_NK = np.zeros((items, most), dtype=np.float32)
    graph_UN, joined = _normalised(user_E, item_E, items)
    if not len(joined):
        return coordinates_NK
    vectors_NK, values_K = _right_singular(graph_UN, most)
    vectors_NK *= _signs(vectors_NK) * values_K
    length_N = np.linalg.norm(vectors_NK, axis=1)
    told = length_N > _ROUNDING * length_N.max()
    coordinates_NK[joined[told], : len(values_K)] = vectors_NK[told] / length_N[told, None]
    return coordinates_NK


def _normalised(
    user_E: npt.NDArray[np.integer], item_E: npt.NDArray[np.integer], items: int
) -> tuple[csr_matrix, npt.NDArray[np.int64]]:
    """The user-item matrix A of users with two different items or more, and the numbers of the items in it."""
    pairs = np.unique(user_E.astype(np.int64) * items + item_E)
    user_E, item_E = np.divmod(pairs, max(items, 1))
    _, user_E, taken = np.unique(user_E, return_inverse=True, return_counts=True)
    several_E = taken[user_E] > 1
    users, user_E = np.unique(user_E[several_E], return_inverse=True)
    joined, item_E = np.unique(item_E[several_E], return_inverse=True)
    if not len(users):
        return csr_matrix((0, 0), dtype=np.float32), joined
    degree_U, degree_N = np.bincount(user_E).astype(np.float64), np.bincount(item_E).astype(np.float64)
    weight_E = 1 / np.sqrt((degree_U + degree_U.mean())[user_E] * (degree_N + degree_N.mean())[item_E])
    shape = (len(users), len(joined))
    return csr_matrix((weight_E.astype(np.float32), (user_E, item_E)), shape=shape), joined


def _right_singular(graph_UN: csr_matrix, most: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The first right singular vectors float32[N, K] and values float32[K], by subspace iteration on A'A.

    Halko, Martinsson and Tropp, SIAM Review 2011 (arXiv 0909.4061), algorithm 4.4, from a fixed random start; exact
    where ``most`` and the oversampling reach the number of items. Works through the users in blocks, so that beside A
    only a few matrices [N, L] are in memory.
    """
    users, items = graph_UN.shape
    width = min(most + _OVERSAMPLED, items)
    rows = max(1, _BLOCK_FLOATS // width)
    blocks = [graph_UN[begin : begin + rows] for begin in range(0, users, rows)]
    basis_NL = _orthonormal(np.random.default_rng(0).standard_normal((items, width), dtype=np.float32), rows)
    for _ in range(_ITERATIONS):
        product_NL = np.zeros_like(basis_NL)
        for block in blocks:
            product_NL += block.T @ (block @ basis_NL)
        basis_NL = _orthonormal(product_NL, rows)
    basis_NL = _orthonormal(basis_NL, rows)  # once more, as float32 leaves the first a little askew
    squares, rotation_LL = np.linalg.eigh(sum(_gram(block @ basis_NL, rows) for block in blocks))
    order = np.argsort(-squares, kind="stable")[:most]
    values_K = np.sqrt(np.maximum(squares[order], 0))
    kept = values_K > _ROUNDING * values_K[0]
    return _turned(basis_NL, rotation_LL[:, order[kept]], rows), values_K[kept].astype(np.float32)


def _signs(vectors_NK: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The sign of each column's largest value, of the first one where several are equal up to rounding."""
    signs_K = np.empty(vectors_NK.shape[1], dtype=np.float32)
    for column, vector_N in enumerate(vectors_NK.T):
        size_N = np.abs(vector_N)
        signs_K[column] = np.sign(vector_N[np.argmax(size_N > 0.999 * size_N.max())])
    return signs_K


def _orthonormal(vectors_NL: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float32]:
    """An orthonormal basis of the columns, in their place; those that only rounding tells from others are left out.

    From the eigenvectors of the Gram matrix (SVQB: Stathopoulos and Wu, SIAM J. Sci. Comput. 2002), which is many times
    faster than QR on tall matrices.
    """
    squares, rotation_LL = np.linalg.eigh(_gram(vectors_NL, rows))
    kept = squares > _ROUNDING**2 * squares[-1]
    return _turned(vectors_NL, rotation_LL[:, kept] / np.sqrt(squares[kept]), rows)


def _turned(
    vectors_NL: npt.NDArray[np.float32], rotation_LK: npt.NDArray[np.floating], rows: int
) -> npt.NDArray[np.float32]:
    """The product float32[N, K], K at most L, written over the first columns ``rows`` rows at a time."""
    rotation_LK = rotation_LK.astype(np.float32)
    width = rotation_LK.shape[1]
    for begin in range(0, len(vectors_NL), rows):
        vectors_NL[begin : begin + rows, :width] = vectors_NL[begin : begin + rows] @ rotation_LK
    return vectors_NL[:, :width]


def _gram(vectors_NL: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float64]:
    """The inner products of the columns, float64[L, L], taken ``rows`` rows at a time."""
    gram_LL = np.zeros((vectors_NL.shape[1],) * 2)
    for begin in range(0, len(vectors_NL), rows):
        part_NL = vectors_NL[begin : begin + rows].astype(np.float64)
        gram_LL += part_NL.T @ part_NL
    return gram_LL
