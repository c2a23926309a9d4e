"""How much noise each silo adds, so that what is opened keeps its promise whoever is left out or tells its own share.

Every silo adds a discrete Gaussian of the same deviation. A sum of such shares is not exactly a discrete Gaussian, and
that is not exactly a Gaussian on whole numbers; both are as good as one here (docs/privacy.md, section 5).
"""

from math import ceil, sqrt
from typing import Final

from crypto.plan import Plan

SHARE_BITS: Final = 20
"""A share's standard deviation is 2^20 units. What a plan chooses is how many units one person may contribute."""

VOTE_BITS: Final = 4
"""On keep counts, a share's standard deviation is 2^4 units: fine enough for the arguments above, and lanes stay short.
What a plan chooses is how many units a vote is worth.
"""

MOST_VOTE_UNITS: Final = 1 << 16
"""With more than this, noise would be less than a thousandth of a vote."""

DEVIATIONS: Final = 12
"""Noise on a keep count is cut at so many standard deviations, or no lane would hold it. A discrete Gaussian has no
heavier tails than a Gaussian: it is cut at all with a probability of 2 exp(-72) at most.
"""

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


def noise_multiplier(sensitivity: float, shares: int, bits: int = SHARE_BITS) -> float:
    """Return the standard deviation of so many shares of 2^`bits` units, less what rounding takes, over `sensitivity`,
    in units too.
    """
    return sqrt(shares * 4**bits - ROUNDING**2) / sensitivity


def reach(plan: Plan) -> int:
    """Return how many units of noise a silo adds to a keep count at most, and takes away at most.

    It may add all shares, where it counts on nobody else's.
    """
    return DEVIATIONS * 2**VOTE_BITS * ceil(sqrt(noise_shares(plan)))


def longest_noise(lanes: int, shares: int) -> float:
    """Return a length that the noise of so many shares on so many lanes exceeds with a probability of exp(-64) at most.

    A discrete Gaussian is sub-Gaussian with its own variance (Canonne, Kamath and Steinke, arXiv 2004.00010), so the
    tail bound of a chi-square holds for it (Hsu, Kakade and Zhang, arXiv 1110.2842).
    """
    return sqrt(shares * 4**SHARE_BITS * (lanes + 2 * sqrt(lanes * TAIL) + 2 * TAIL))
