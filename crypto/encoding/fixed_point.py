"""Fixed point: real numbers as integers that fit a secure sum.

`encode` rounds each value by at most 2^-(fraction_bits+1); the sum of n values is thus off by at most
n * 2^-(fraction_bits+1). `decode` adds only the rounding of one float64 (relative 2^-53), and none below 2^53.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

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


def encode_clipped(
    values: NDArray[np.float64], exponent: int | NDArray[np.int64], most: int
) -> tuple[NDArray[np.uint64], int]:
    """Return each value as a multiple of 2^exponent, half to even, and how many of them were above `most` multiples.

    `exponent` is one for all values, or an array of one each.
    `most` is a power of two, at most 2^62. What is above counts as `most`, NaN and what is below 0 as 0: no value is
    refused, so that none shows by a refusal. Error of a sum of n that fit: at most n * 2^(exponent - 1).
    """
    limit = np.ldexp(float(most), exponent)
    multiples = np.rint(np.ldexp(np.nan_to_num(values).clip(0, limit), -exponent))
    return multiples.astype(np.uint64), int((values > limit).sum())


def encode_signed(values: NDArray[np.float64], exponent: int, bits: int) -> NDArray[np.uint64]:
    """Return each value as a multiple of 2^exponent, half to even, plus 2^bits: from 0 to 2^(bits + 1).

    A value above 2^(exponent + bits) in magnitude is cut to that, and NaN counts as 0: no value is refused, so that
    none shows by a refusal.
    """
    most = math.ldexp(1, exponent + bits)
    multiples = np.ldexp(np.nan_to_num(values).clip(-most, most), -exponent)
    encoded: NDArray[np.uint64] = (np.rint(multiples) + (1 << bits)).astype(np.uint64)
    return encoded


def decode_average(
    sums: NDArray[np.uint64], counts: NDArray[np.unsignedinteger], exponent: int, bits: int
) -> NDArray[np.float64]:
    """Return the average of the `counts` values that `encode_signed` made each of `sums` of; 0 where there are none.

    Off from the average of the unrounded values by at most 2^(exponent - 1), and the rounding of float64.
    """
    totals = sums.astype(np.int64) - (counts.astype(np.int64) << bits)
    average: NDArray[np.float64] = np.ldexp(totals / np.maximum(counts, 1), exponent)
    return average
