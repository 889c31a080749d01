import numpy as np
import pytest

from sidera.items.unit_vectors import unit_rows


def test_rows_have_length_one_and_rows_of_zeros_stay() -> None:
    found = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
    assert found.dtype == np.float32
    assert found.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0], [0.0, -1.0]]
