"""Items that users take one right after the other."""

import numpy as np

from training.co_occurrence import side_by_side


def test_pairs_are_counted_within_a_user_in_both_orders_and_items_beside_themselves_never() -> None:
    walks = [[0, 1, 0], [3, 3, 1, 0], [2], [1]]
    user_E = np.repeat(np.arange(4), [len(own) for own in walks])
    counts_NN = side_by_side(user_E, np.concatenate(walks), 5)
    assert counts_NN.toarray().tolist() == [
        [0, 3, 0, 0, 0],
        [3, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert counts_NN.nnz == 4


def test_a_catalog_without_events_has_no_neighbours() -> None:
    nothing = np.zeros(0, dtype=np.int32)
    assert side_by_side(nothing, nothing, 3).nnz == 0
