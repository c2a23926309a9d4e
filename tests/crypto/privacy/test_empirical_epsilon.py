"""Attacks on the mechanism as it is: what they prove of epsilon is below what is promised, and above it with a bug.

One looks at many sums of three silos' units, in half of which a unit is there that contributes as much as it may, and
guesses in which, by a threshold. What it gets right bounds epsilon from below (Nasr et al., arXiv 2101.04535; the
intervals are Clopper and Pearson's).
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from crypto.primitives.keystream import keystream
from crypto.privacy.accountant import epsilon, least_multiplier
from crypto.privacy.clipping import contribution
from crypto.privacy.events import GaussianEvent
from crypto.privacy.mechanisms.discrete_gaussian import KeystreamWords, discrete_gaussian
from crypto.privacy.noise_shares import SHARE_BITS, noise_multiplier

TRIALS, DELTA, SHARES = 200_000, 1e-6, 3
SURE = 0.999

Values = NDArray[np.int64]


def share(seed: int) -> Values:
    random = KeystreamWords(keystream("noise", bytes([seed]) * 32, bytes(32), 0))
    return discrete_gaussian(TRIALS, SHARE_BITS, random)


def opened(clip: int, present: bool, unit: Callable[[int], int], of_silo: Callable[[Values], Values]) -> Values:
    """What a lane is in each trial; every other unit contributes the same in all of them, and is left out."""
    shares = [of_silo(share(10 * present + silo)) for silo in range(SHARES)]
    summed: Values = np.sum(shares, axis=0) + (unit(clip) if present else 0)
    return summed


def proven(with_unit: Values, without: Values) -> float:
    """The largest epsilon that the trials prove. The first half chooses the threshold, the second judges it."""
    half = TRIALS // 2
    best, at = -math.inf, 0.0
    for threshold in np.quantile(with_unit[:half], np.linspace(0.01, 0.999, 200)):
        bound = _bound(with_unit[:half] > threshold, without[:half] > threshold)
        best, at = max((best, at), (bound, float(threshold)))
    return _bound(with_unit[half:] > at, without[half:] > at)


def _bound(right: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> float:
    true_positives, false_positives, trials = int(right.sum()), int(wrong.sum()), len(right)
    least = beta.ppf(1 - SURE, true_positives, trials - true_positives + 1) if true_positives else 0.0
    most = beta.ppf(SURE, false_positives + 1, trials - false_positives)
    return math.log((least - DELTA) / most) if least > DELTA else -math.inf


def bounded(clip: int) -> int:
    """A unit as it is clipped: longer than the radius by far."""
    return int(contribution(np.array([1e6]), 1.0, clip)[0])


def as_it_is(values: Values) -> Values:
    return values


def clip_for(wanted: float) -> int:
    clip = math.floor(math.sqrt(SHARES) * 2**SHARE_BITS / least_multiplier(wanted, DELTA)) - 1
    assert 0.99 * wanted < epsilon([GaussianEvent(noise_multiplier(clip, SHARES))], DELTA) <= wanted
    return clip


@pytest.mark.parametrize(("wanted", "at_least"), [(1.0, 0.3), (4.0, 1.8)])
def test_no_attack_proves_more_than_is_promised(wanted: float, at_least: float) -> None:
    """And it is an attack: it proves a good part of it."""
    worlds = (opened(clip_for(wanted), present, bounded, as_it_is) for present in (True, False))
    assert at_least < proven(*worlds) < wanted


@pytest.mark.parametrize("wanted", [1.0, 4.0])
def test_a_missing_clip_shows(wanted: float) -> None:
    """A unit whose text is three times as long as usual."""
    worlds = (opened(clip_for(wanted), present, lambda clip: 3 * clip, as_it_is) for present in (True, False))
    assert proven(*worlds) > wanted


@pytest.mark.parametrize("wanted", [1.0, 4.0])
def test_a_share_that_is_too_small_shows(wanted: float) -> None:
    """As if variances were divided among silos twice: sigma over s, and not over the root of s, is what each adds."""
    clip = clip_for(wanted)
    worlds = (opened(clip, present, bounded, lambda values: values // SHARES) for present in (True, False))
    assert proven(*worlds) > wanted
