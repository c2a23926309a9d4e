"""What one unit contributes to a sum: whole numbers of bounded Euclidean length, whatever its text is."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

MOST_CLIP = 1 << 31
"""The longest contribution: the square of its length fits an integer of 64 bits."""


def contribution(values: NDArray[np.float64], radius: float, clip: int) -> NDArray[np.int64]:
    """Return the values, whose length `radius` is to be `clip` units, as whole units: int64, of length `clip` at most.

    Longer ones are shortened, in their direction. The bound holds exactly, in whole numbers: it is the sensitivity of a
    sum of contributions. NaN counts as 0 and infinity as the largest float, so that no value is refused.
    """
    finite = np.nan_to_num(values)
    largest = float(np.abs(finite).max(initial=0))
    if not largest:
        return np.zeros(len(values), np.int64)
    direction = finite / largest  # the squares of the values themselves may not fit a float
    length = float(np.linalg.norm(direction))
    factor = min(clip / radius * largest, clip / length)
    while (squares := _squares(units := np.rint(direction * factor).astype(np.int64))) > clip * clip:
        factor *= clip / sqrt(squares) * (1 - 2.0**-20)
    return units


def _squares(units: NDArray[np.int64]) -> int:
    return int(units @ units)
