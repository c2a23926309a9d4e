"""Blocks' sparsity ratios that differ by given amounts and whose mean over all weights is the asked ratio, exactly."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Final

STEP: Final = Decimal("0.0001")
"""Blocks' sparsity ratios are multiples of it."""

MOST: Final = 1 - STEP
"""The largest sparsity ratio that a block can have."""


def rescaled(values: Sequence[Fraction]) -> list[Fraction]:
    """Return the values shifted and stretched so that the least is 0 and the largest 1; all 0 where they are equal."""
    least, range_ = min(values), max(values) - min(values)
    return [(value - least) / range_ if range_ else Fraction(0) for value in values]


def ratios_with_mean(offsets: Sequence[Fraction], sizes: Sequence[int], ratio: Decimal) -> list[Decimal]:
    """Return by block c + offset, a multiple of 0.0001 in [0, 1), with the c that makes the mean over weights `ratio`.

    `sizes` are the blocks' counts of weights. Ratios that would be outside [0, 0.9999] are clipped, and c is such that
    the mean holds after that. All of this is exact. Then ratios are rounded (half to even) to multiples of 0.0001, from
    the first block to the last, and what rounding a block adds or leaves is taken from or given to the next: all blocks
    together are off by at most half a step of the largest, each by one where sizes are equal.
    """
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
    """c + offset, clipped to [0, MOST], by block, with the c that makes its mean over weights `ratio`."""

    def at(c: Fraction) -> list[Fraction]:
        return [min(max(c + offset, Fraction(0)), Fraction(MOST)) for offset in offsets]

    def mean(c: Fraction) -> Fraction:
        return sum((share * size for share, size in zip(at(c), sizes, strict=True)), Fraction(0)) / sum(sizes)

    # The mean grows with c, in straight lines between the places where a block reaches 0 or MOST.
    bends = sorted({bound - offset for offset in offsets for bound in (0, Fraction(MOST))})
    low, high = next((low, high) for low, high in pairwise(bends) if mean(high) >= ratio)
    return at(low + (high - low) * (ratio - mean(low)) / (mean(high) - mean(low)))
