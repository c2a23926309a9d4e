"""OWL (Yin et al., ICML 2024, "Outlier Weighed Layerwise sparsity"): blocks with more outliers are pruned less.

Both roles compute the ratios alike, so all of it is exact arithmetic on the summed counts of outliers.
"""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Final

SPREAD: Final = Decimal("0.08")
"""The paper's lambda: blocks' sparsity ratios lie within a range of twice this, about the asked one."""

STEP: Final = Decimal("0.0001")
"""Blocks' sparsity ratios are multiples of it."""

MOST: Final = 1 - STEP
"""The largest of them."""


def owl_ratios(counts: Sequence[int], sizes: Sequence[int], ratio: Decimal, spread: Decimal = SPREAD) -> list[Decimal]:
    """Return each block's sparsity ratio, a multiple of 0.0001 in [0, 1), from counts of outliers and of weights.

    With d a block's share of outliers, rescaled so that the least of all blocks is 0 and the largest 2 * `spread`, its
    ratio is c - d, where the same c for all makes the mean over all weights `ratio`. Ratios that would be outside
    [0, 0.9999] are clipped, and c is such that the mean holds after that. Where all shares are equal so are the ratios.
    All of this is exact. Then ratios are rounded (half to even) to multiples of 0.0001, from the first block to the
    last, and what rounding a block adds or leaves is taken from or given to the next: all blocks together are off by at
    most half a step of the largest, each by one where sizes are equal.
    """
    shares = [Fraction(count, size) for count, size in zip(counts, sizes, strict=True)]
    least, range_ = min(shares), max(shares) - min(shares)
    offsets = [(share - least) / range_ * 2 * Fraction(spread) if range_ else Fraction(0) for share in shares]
    exact = _clipped(offsets, sizes, min(Fraction(ratio), Fraction(MOST)))
    ratios = []
    owed = Fraction(0)  # weights that the blocks so far would prune unrounded, less what they do
    for share, size in zip(exact, sizes, strict=True):
        owed += share * size
        steps = round(owed / size / Fraction(STEP))
        ratios.append(min(max(steps * STEP, 0 * STEP), MOST))
        owed -= Fraction(ratios[-1]) * size
    return ratios


def _clipped(offsets: Sequence[Fraction], sizes: Sequence[int], ratio: Fraction) -> list[Fraction]:
    """c - offset, clipped to [0, MOST], by block, with the c that makes its mean over weights `ratio`."""

    def at(c: Fraction) -> list[Fraction]:
        return [min(max(c - offset, Fraction(0)), Fraction(MOST)) for offset in offsets]

    def mean(c: Fraction) -> Fraction:
        return sum((share * size for share, size in zip(at(c), sizes, strict=True)), Fraction(0)) / sum(sizes)

    # The mean grows with c, in straight lines between the places where a block reaches 0 or MOST.
    bends = sorted({offset + bound for offset in offsets for bound in (0, Fraction(MOST))})
    low, high = next((low, high) for low, high in pairwise(bends) if mean(high) >= ratio)
    return at(low + (high - low) * (ratio - mean(low)) / (mean(high) - mean(low)))
