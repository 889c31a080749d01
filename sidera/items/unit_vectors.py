"""Vectors at length 1, whose products are cosines. Shapes: R some rows, D dim."""

import numpy as np
import numpy.typing as npt


def unit_rows(vectors_RD: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Each row at length 1; a row of zeros stays, at cosine 0 to all. Shape: float32[R, D]."""
    rows_RD = np.asarray(vectors_RD, dtype=np.float32)
    length_R1 = np.linalg.norm(rows_RD, axis=1, keepdims=True)
    unit_RD: npt.NDArray[np.float32] = np.divide(rows_RD, length_R1, out=np.zeros_like(rows_RD), where=length_R1 > 0)
    return unit_RD
