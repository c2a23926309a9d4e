"""Keep counts that noise is on, drawn towards those of weights of about the same size, as far as they are noise.

Silos keep large weights more often than small ones, and how large a weight is, everybody knows. So weights are put into
classes of equal number by their size in their row and column. In each class, counts are taken to be normal around its
mean; mean and variance are estimated from what was opened, and a count becomes its posterior mean (Efron and Morris,
"Stein's Estimation Rule and its Competitors", 1973). All of it is computed from public values.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = 64
PARTS: Final = 1 << 16
"""Into which a vote is divided, so that counts have an order in whole numbers."""


def likely_counts(
    noisy: NDArray[np.int64], units: int, variance: int, importance: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Return what keep counts most likely are without noise, in parts of a vote: int32 [d_out, d_in].

    `noisy` are counts in units, of which a vote has `units`, with noise of this variance in units squared; `importance`
    ranks the weights without anybody's text. Both are [d_out, d_in]. The result is the same on every machine.
    """
    counts = noisy.reshape(-1)
    order = np.argsort(importance, axis=None, kind="stable")
    of_class = np.empty(len(counts), np.int64)
    of_class[order] = np.arange(len(counts)) * CLASSES // len(counts)
    weights = np.maximum(np.bincount(of_class, minlength=CLASSES), 1)
    # numpy adds up a class in the order of the weights, and whole numbers below 2^53 without rounding.
    mean = np.bincount(of_class, counts, CLASSES) / weights
    squares = np.bincount(of_class, counts * counts, CLASSES) / weights
    spread = np.maximum(squares - mean * mean - variance, 0)
    trusted = spread / (spread + variance)
    likely = mean[of_class] + trusted[of_class] * (counts - mean[of_class])
    parts: NDArray[np.int32] = np.rint(likely * (PARTS / units)).astype(np.int32)
    return parts.reshape(noisy.shape)
