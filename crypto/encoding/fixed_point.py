"""Fixed point: a non-negative real number as an integer that fits a secure sum.

`encode` rounds each value by at most 2^-(fraction_bits+1); the sum of n values is thus off by at most
n * 2^-(fraction_bits+1). `decode` adds only the rounding of one float64 (relative 2^-53), and none below 2^53.
"""

import math
from fractions import Fraction

from crypto.errors import PlanError


def encode(value: float, fraction_bits: int, largest_sum_of: int) -> int:
    """Return `value` * 2^fraction_bits rounded to an integer, half to even, exactly.

    Raises PlanError when `value` is negative or not finite, or when `largest_sum_of` such values reach 2^64. The
    message does not repeat the value, which is private. Error of a sum of n: at most n * 2^-(fraction_bits+1).
    """
    if not math.isfinite(value) or value < 0:
        raise PlanError("a value to sum is negative or not finite", hint="only numbers from 0 up can be summed")
    encoded = round(Fraction(value) * (1 << fraction_bits))
    if largest_sum_of * encoded >= 1 << 64:
        raise PlanError(
            f"a value is too large: {largest_sum_of} of it with {fraction_bits} fraction bits reach 2^64",
            hint="use fewer fraction bits",
        )
    return encoded


def decode(total: int, fraction_bits: int) -> float:
    """Return the sum whose encoded form is `total`, correctly rounded to float64."""
    return total / (1 << fraction_bits)
