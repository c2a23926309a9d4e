"""AlphaPruning (Lu et al., NeurIPS 2024, section 3): blocks whose matrices look less trained are pruned more.

How trained they look says the exponent of their spectrum's tail (`silo_agent/pruning/spectral`), which needs no text.
Both roles compute the ratios alike, so all of it is exact arithmetic on the exponents.
"""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final

from crypto.pruning.block_ratios import ratios_with_mean, rescaled

SPREAD: Final = Decimal("0.3")
"""The paper's tau: before they are scaled to the asked mean, blocks' ratios lie between 1 - tau and 1 + tau."""


def alpha_ratios(alphas: Sequence[Decimal], sizes: Sequence[int], ratio: Decimal) -> list[Decimal]:
    """Return each block's sparsity ratio, a multiple of 0.0001 in [0, 1), from its exponent and its count of weights.

    The exponents are mapped linearly, the least of all blocks to 1 - `SPREAD` and the largest to 1 + `SPREAD`, and
    multiplied by what makes the mean over all weights `ratio`; where they are equal so are the ratios. Where one would
    be above 0.9999 it is clipped, and all others grow by the same amount, as `ratios_with_mean` says.
    """
    spread = Fraction(SPREAD)
    mapped = [1 - spread + 2 * spread * share for share in rescaled([Fraction(alpha) for alpha in alphas])]
    total = sum((each * size for each, size in zip(mapped, sizes, strict=True)), Fraction(0))
    scaler = Fraction(ratio) * sum(sizes) / total
    return ratios_with_mean([scaler * each for each in mapped], sizes, ratio)
