"""How much noise each silo adds, so that what is opened keeps its promise whoever is left out or tells its own share.

Every silo adds a discrete Gaussian of the same deviation. A sum of such shares is not exactly a discrete Gaussian, and
that is not exactly a Gaussian on whole numbers; both are as good as one here (docs/privacy.md, section 5).
"""

from math import sqrt
from typing import Final

from crypto.plan import Plan

SHARE_BITS: Final = 20
"""A share's standard deviation is 2^20 units. What a plan chooses is how many units one person may contribute."""

ROUNDING: Final = 4
"""Units of standard deviation by which a Gaussian is taken to have less noise than the whole numbers have.

A Gaussian of that much less variance, rounded at random to whole numbers, is a discrete Gaussian up to a factor of
1 + 4 exp(-2 pi^2 16) in any probability (Peikert, "An Efficient and Parallel Gaussian Sampler for Lattices", 2010,
Theorem 3.1).
"""

TAIL: Final = 64
"""Minus the logarithm of how likely it is that honest noise is taken for a lie."""


def noise_shares(plan: Plan) -> int:
    """Return how many shares of noise there are at least in a sum that somebody knows only others' shares of.

    Whoever looks on may be a silo, which knows its own share, or as many colluders as the plan reckons with.
    """
    return plan.message.least_survivors - max(1, plan.message.colluders)


def longest_noise(lanes: int, shares: int) -> float:
    """Return a length that the noise of so many shares on so many lanes exceeds with a probability of exp(-64) at most.

    A discrete Gaussian is sub-Gaussian with its own variance (Canonne, Kamath and Steinke, arXiv 2004.00010, Corollary
    17), so the tail bound of a chi-square holds for it (Hsu, Kakade and Zhang, arXiv 1110.2842, Theorem 2.1).
    """
    return sqrt(shares * 4**SHARE_BITS * (lanes + 2 * sqrt(lanes * TAIL) + 2 * TAIL))


def noise_multiplier(clip: int, shares: int) -> float:
    """Return the standard deviation of so many shares, less what rounding takes, over `clip`."""
    return sqrt(shares * 4**SHARE_BITS - ROUNDING**2) / clip
