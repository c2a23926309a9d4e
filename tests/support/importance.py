"""RIA's score with input norms estimated from keep counts (ADR 24), in plain numpy, a column at a time."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def importance(counts: Tensor, survivors: int, weight: Tensor) -> NDArray[np.float64]:
    """float64 [d_out, d_in], from counts and weight of that shape."""
    size, votes = weight.abs().double().numpy(), counts.numpy().astype(int)
    of_row, of_column = (size / np.maximum(np.sum(size, axis, keepdims=True), np.finfo(float).tiny) for axis in (1, 0))
    contested = (votes != 0) & (votes != survivors)
    norms = np.ones(size.shape[1])
    if of_row[contested].sum():
        for column in range(size.shape[1]):
            mine = of_row[contested[:, column], column]
            norms[column] = 1 / np.mean([*mine, of_row[contested].mean()])
    found: NDArray[np.float64] = (of_row + of_column) * norms**0.5
    return found
