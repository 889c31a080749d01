"""Which items users take one right after the other. Knows nothing of texts, vectors or files.

Shapes: E events, N items.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix


def side_by_side(user_E: npt.NDArray[np.integer], item_E: npt.NDArray[np.integer], items: int) -> csr_matrix:
    """How often users took two items one right after the other, whichever came first: float32[N, N], symmetric.

    Nothing on the diagonal: an item taken twice in a row says nothing of others.

    Args:
        user_E: user numbers, int[E], all events of a user in one run.
        item_E: item numbers below ``items``, int[E], oldest first within a user.
        items: N.
    """
    together = (user_E[1:] == user_E[:-1]) & (item_E[1:] != item_E[:-1])
    first, second = item_E[:-1][together], item_E[1:][together]
    ones = np.ones(2 * len(first), dtype=np.float32)
    pairs = (np.concatenate([first, second]), np.concatenate([second, first]))
    return csr_matrix((ones, pairs), shape=(items, items))
