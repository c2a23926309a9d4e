"""OWL (Yin et al., ICML 2024, "Outlier Weighed Layerwise sparsity"): blocks with more outliers are pruned less.

Both roles compute the ratios alike, so all of it is exact arithmetic on the summed counts of outliers.
"""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final

from crypto.pruning.block_ratios import ratios_with_mean, rescaled

SPREAD: Final = Decimal("0.08")
"""The paper's lambda: blocks' sparsity ratios lie within a range of twice this, about the asked one."""


def owl_ratios(counts: Sequence[int], sizes: Sequence[int], ratio: Decimal, spread: Decimal = SPREAD) -> list[Decimal]:
    """Return each block's sparsity ratio, a multiple of 0.0001 in [0, 1), from counts of outliers and of weights.

    With d a block's share of outliers, rescaled so that the least of all blocks is 0 and the largest 2 * `spread`, its
    ratio is c - d, where the same c for all makes the mean over all weights `ratio`, as `ratios_with_mean` says. Where
    all shares are equal so are the ratios.
    """
    shares = rescaled([Fraction(count, size) for count, size in zip(counts, sizes, strict=True)])
    return ratios_with_mean([-2 * Fraction(spread) * share for share in shares], sizes, ratio)
