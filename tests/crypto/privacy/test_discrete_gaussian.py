"""The sampler against exact probabilities, with tests that are shown to tell a wrong sampler from a right one."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from crypto.primitives.keystream import keystream
from crypto.privacy.mechanisms.discrete_gaussian import KeystreamWords, discrete_gaussian
from crypto.privacy.noise_shares import SHARE_BITS

DRAWS = 200_000
LEAST_P = 1e-4
"""Seeds are fixed, so a right sampler that passes goes on to pass."""

Values = NDArray[np.int64]
Sampler = Callable[[int, KeystreamWords], Values]


def words(seed: int) -> KeystreamWords:
    return KeystreamWords(keystream("noise", bytes([seed]) * 32, bytes(32), 0))


def probabilities(variance: float, most: int) -> NDArray[np.float64]:
    """Those of a discrete Gaussian from -most to most, by its definition; the rest is below a float's rounding."""
    weights = np.exp(-(np.arange(-most, most + 1) ** 2) / (2 * variance))
    whole: NDArray[np.float64] = weights / weights.sum()
    return whole


def fit(values: Values, variance: float) -> float:
    """The chi-square test's p-value, of values with at least five expected draws and of all others together."""
    most = math.ceil(40 * math.sqrt(variance)) + 1
    expected = probabilities(variance, most) * len(values)
    counted = np.bincount(np.clip(values + most, 0, 2 * most), minlength=2 * most + 1)
    common = expected >= 5
    both = [np.append(of[common], of[~common].sum()) for of in (counted, expected)]
    return float(stats.chisquare(*both).pvalue)


def off(values: Values, variance: float) -> float:
    """How many standard errors the sample variance is from the discrete Gaussian's own."""
    most = math.ceil(40 * math.sqrt(variance)) + 1
    chances, places = probabilities(variance, most), np.arange(-most, most + 1).astype(float)
    second, fourth = ((places**power * chances).sum() for power in (2, 4))
    error = math.sqrt((fourth - second**2) / len(values))
    return abs(float((values.astype(float) ** 2).mean()) - float(second)) / error


@pytest.mark.parametrize("bits", [0, 1, 2, 4])
def test_values_have_the_probabilities_of_a_discrete_gaussian(bits: int) -> None:
    values = discrete_gaussian(DRAWS, bits, words(bits))
    assert fit(values, 4.0**bits) > LEAST_P
    assert off(values, 4.0**bits) < 4
    assert abs(values.mean()) < 4 * 2**bits / math.sqrt(DRAWS)


@pytest.mark.clause("2.9.4")
def test_a_share_of_noise_is_gaussian_at_its_scale() -> None:
    values = discrete_gaussian(DRAWS, SHARE_BITS, words(7)) / 2.0**SHARE_BITS
    assert stats.kstest(values, "norm").pvalue > LEAST_P
    assert abs(float((values**2).mean()) - 1) < 4 * math.sqrt(2 / DRAWS)


@pytest.mark.parametrize("silos", [3, 5])
@pytest.mark.parametrize("dropped", [0, 2])
def test_shares_of_those_who_are_left_add_up(silos: int, dropped: int) -> None:
    """Their variances add up, and nobody's noise makes up for that of silos that dropped out."""
    shares = [discrete_gaussian(DRAWS, 2, words(10 + silo)) for silo in range(silos - dropped)]
    values = np.sum(shares, axis=0)
    assert off(values, 16.0 * len(shares)) < 4
    assert fit(values, 16.0 * len(shares)) > LEAST_P
    if dropped:
        assert off(values, 16.0 * silos) > 50


WRONG: dict[str, Sampler] = {
    "too wide by 2 %": lambda count, random: np.rint(discrete_gaussian(count, 4, random) * 1.02).astype(np.int64),
    "a rounded Gaussian": lambda count, _: np.rint(np.random.default_rng(1).normal(0, 1, count)).astype(np.int64),
    "zero twice as likely": lambda count, random: np.where(
        (values := discrete_gaussian(count, 4, random)) == 1, 0, values
    ),
    "a Laplacian": lambda count, _: np.rint(np.random.default_rng(1).laplace(0, 16 / math.sqrt(2), count)).astype(
        np.int64
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_sampler_is_told(wrong: str) -> None:
    bits = 0 if wrong == "a rounded Gaussian" else 4
    values = WRONG[wrong](DRAWS, words(3))
    assert fit(values, 4.0**bits) < LEAST_P


def test_the_same_stream_gives_the_same_values_however_they_are_taken() -> None:
    first, again, other = (discrete_gaussian(1000, 3, words(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


class CountedWords:
    """Words of a keystream that begin with given ones."""

    def __init__(self, *given: int) -> None:
        self.given, self.after = list(given), words(1)

    def take(self, count: int) -> NDArray[np.uint64]:
        taken = [self.given.pop(0) if self.given else int(self.after.take(1)[0]) for _ in range(count)]
        return np.array(taken, np.uint64)


def test_a_word_beyond_equal_parts_is_drawn_again() -> None:
    """One in three: 2^64 is no multiple of 3, and the one word that is left over decides nothing."""
    from crypto.privacy.mechanisms.discrete_gaussian import _one_in

    third = (1 << 64) // 3
    assert 3 * third == (1 << 64) - 1
    drawn = CountedWords(third - 1, third, (1 << 64) - 1, 0)
    assert _one_in(3, 3, drawn).tolist() == [True, False, True]
    assert drawn.given == []


def test_exponentials_are_exact_to_what_a_count_can_tell() -> None:
    from crypto.privacy.mechanisms.discrete_gaussian import _exponential_fraction, _exponential_whole

    for numerator in (0, 1, 5, 8):
        share = Fraction(numerator, 8)
        true = _exponential_fraction(np.full(DRAWS, numerator, np.uint64), 3, words(20 + numerator))
        assert stats.binomtest(int(true.sum()), DRAWS, math.exp(-share)).pvalue > LEAST_P
    for whole in (0, 1, 3):
        true = _exponential_whole(np.full(DRAWS, whole, np.uint64), words(30 + whole))
        assert stats.binomtest(int(true.sum()), DRAWS, math.exp(-whole)).pvalue > LEAST_P


def test_a_deviation_whose_squares_do_not_fit_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma is 2\^0 to 2\^24"):
        discrete_gaussian(1, 25, words(1))
