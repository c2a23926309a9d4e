"""Fixed point against decimal arithmetic on exact binary fractions."""

import math
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding.fixed_point import decode, decode_average, encode, encode_signed
from crypto.errors import PlanError

values = st.floats(0, 2**20)


@given(values, st.integers(0, 32))
def test_encoding_rounds_half_to_even(value: float, fraction_bits: int) -> None:
    with localcontext() as context:
        context.prec = 1200  # every float64 is a finite decimal of fewer digits
        exact = Decimal(value) * 2**fraction_bits
        assert encode(value, fraction_bits, 200) == int(exact.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@pytest.mark.parametrize(("value", "encoded"), [(0.125, 0), (0.375, 2), (0.625, 2), (0.875, 4), (0.25, 1), (-0.0, 0)])
def test_ties_go_to_the_even_neighbour(value: float, encoded: int) -> None:
    assert encode(value, 2, 1) == encoded


@given(st.lists(values, min_size=1, max_size=50), st.integers(0, 36))
def test_a_sum_stays_within_the_stated_error(silos: list[float], fraction_bits: int) -> None:
    total = sum(encode(value, fraction_bits, len(silos)) for value in silos)
    assert total < 2**64
    error = abs(Fraction(total, 2**fraction_bits) - sum(map(Fraction, silos)))
    assert error <= len(silos) * Fraction(1, 2 ** (fraction_bits + 1))


def test_the_stated_error_is_reached() -> None:
    silos = [0.5 + 2.0**-9] * 8  # half a unit too much for 8 fraction bits, rounded down to even
    total = sum(encode(value, 8, 8) for value in silos)
    assert decode(total, 8) == sum(silos) - 8 * 2.0**-9


@given(st.integers(0, 2**64 - 1), st.integers(0, 60))
def test_decoding_is_exact_below_2_53_and_the_nearest_float_above(total: int, fraction_bits: int) -> None:
    value = decode(total, fraction_bits)
    exact = Fraction(total, 2**fraction_bits)
    if total <= 2**53:
        assert Fraction(value) == exact
    neighbours = (math.nextafter(value, -1), math.nextafter(value, math.inf))
    assert all(abs(Fraction(value) - exact) <= abs(Fraction(other) - exact) for other in neighbours)


@pytest.mark.parametrize("silos", [1, 3, 200])
@pytest.mark.parametrize("fraction_bits", [0, 20])
def test_a_sum_must_stay_below_2_64(silos: int, fraction_bits: int) -> None:
    largest = (2**64 - 1) // silos
    below = math.nextafter(largest / 2**fraction_bits, 0)
    assert silos * encode(below, fraction_bits, silos) < 2**64
    with pytest.raises(PlanError, match="2\\^64"):
        encode(math.nextafter(2**64 / silos / 2**fraction_bits, math.inf), fraction_bits, silos)


def test_exactly_2_64_is_too_much() -> None:
    assert encode(3.0, 0, (2**64 - 1) // 3) == 3
    assert encode(2.0**62, 0, 3) == 2**62
    with pytest.raises(PlanError):
        encode(2.0**62, 0, 4)


@pytest.mark.parametrize("value", [-1.0, -5e-324, math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_from_zero_is_refused(value: float) -> None:
    with pytest.raises(PlanError, match="negative or not finite"):
        encode(value, 8, 3)


def test_the_message_keeps_the_value_private() -> None:
    for value in (-1234.5, 1234.5e30):
        with pytest.raises(PlanError) as caught:
            encode(value, 8, 3)
        assert "1234" not in str(caught.value)


# Signed values and their averages.

BITS = 16


@given(st.integers(-40, 20), st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_signed_values_are_multiples_of_the_unit_half_to_even(exponent: int, parts: list[float]) -> None:
    values = np.array(parts) * 2.0 ** (exponent + BITS)
    expected = [round(Fraction(value) / Fraction(2) ** exponent) + 2**BITS for value in values.tolist()]
    assert encode_signed(values, exponent, BITS).tolist() == expected
    assert all(0 <= each <= 2 ** (BITS + 1) for each in expected)


@pytest.mark.parametrize("beyond", [1 + 2**-52, 2.0, 1e308, float("inf")])
def test_a_signed_value_beyond_the_bound_is_cut_to_it(beyond: float) -> None:
    values = np.array([0.5, 1.0, beyond, -1.0, -beyond, float("nan")])
    most = 2 ** (BITS + 1)
    assert encode_signed(values, -BITS, BITS).tolist() == [3 * most // 4, most, most, 0, 0, most // 2]


@given(st.integers(-60, 10), st.lists(st.lists(st.integers(-(2**16), 2**16), max_size=200), min_size=1, max_size=9))
def test_an_average_is_exact_up_to_one_rounding(exponent: int, columns: list[list[int]]) -> None:
    sums = np.array([sum(multiple + 2**BITS for multiple in column) for column in columns], np.uint64)
    counts = np.array([len(column) for column in columns], np.uint8)
    found = decode_average(sums, counts, exponent, BITS).tolist()
    unit = Fraction(2) ** exponent
    assert found == [float(Fraction(sum(column), len(column)) * unit) if column else 0.0 for column in columns]
