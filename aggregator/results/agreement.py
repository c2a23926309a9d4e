"""How far silos agree about the weights, from keep counts alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb


@dataclass(frozen=True)
class Agreement:
    """Agreement of silos about the weights of some tensors; each a fraction of the weights, or of pairs of silos and
    weights.
    """

    unanimous: float
    """All silos kept the weight, or all zeroed it."""
    pairwise: float
    """Two silos drawn at random decided alike about a weight drawn at random."""
    by_chance: float
    """The same, for silos that keep as large a share of each tensor as these, at random and each on its own."""


def agreement(histograms: Iterable[Sequence[int]]) -> Agreement:
    """Return the agreement: `histograms[t][c]` is how many weights of tensor t were kept by c of n silos, n >= 2.

    A weight that c of n silos kept has C(c, 2) + C(n - c, 2) of C(n, 2) pairs in agreement.
    """
    weights, unanimous, pairwise, by_chance = 0, 0, 0.0, 0.0
    for histogram in histograms:
        silos, size = len(histogram) - 1, sum(histogram)
        agreeing = sum(n * (comb(c, 2) + comb(silos - c, 2)) for c, n in enumerate(histogram))
        kept = sum(c * n for c, n in enumerate(histogram)) / (silos * size)
        weights += size
        unanimous += histogram[0] + histogram[silos]
        pairwise += agreeing / comb(silos, 2)
        by_chance += size * (kept**2 + (1 - kept) ** 2)
    return Agreement(unanimous / weights, pairwise / weights, by_chance / weights)
