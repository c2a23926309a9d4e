"""What privacy events come to: epsilon at a delta, by the privacy loss of the dp_accounting library.

Gaussian releases compose to a Gaussian release, whatever later ones learn from earlier ones (Dong et al., "Gaussian
Differential Privacy", arXiv 1905.02383, Corollary 3.3; also where what is asked next depends on what was seen: Smith
and Thakurta, arXiv 2210.17520). So one multiplier stands for all of them, and the library has its loss in closed form
(Balle and Wang, arXiv 1805.06530, Theorem 8).
"""

from collections.abc import Callable, Iterable
from math import exp, inf, isinf, log, sqrt
from typing import Final

from crypto.privacy.events import GaussianEvent, PrivacyEvent

USUAL_DELTA: Final = 1e-6
"""Where nobody names one: well below one in the number of people in a silo's text, which a delta has to be."""

MOST_MULTIPLIER: Final = 1e9
"""Far more noise than leaves anything of a sum."""

LEAST: Final = 1e-300
"""The smallest delta that is told from 0."""

LOG_OF_TAIL: Final = -500
"""The library looks no further into a tail than to this logarithm of a probability."""


def epsilon(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Return the epsilon that all these events keep together, with probability 1 - `delta`; infinity where none.

    Two data sets are neighbours where one unit's text is empty in one of them.
    """
    multiplier = combined_multiplier(events)
    if multiplier == 0:
        return inf
    if isinf(multiplier):
        return 0.0
    if _delta(0, multiplier) <= delta:
        return 0.0
    rho = 1 / (2 * multiplier**2)
    enough = rho + 2 * sqrt(rho * log(1 / delta))  # Bun and Steinke, arXiv 1605.02065, Proposition 1.3
    return _root(lambda tried: log(_delta(tried, multiplier) / delta), 0, enough)


def combined_multiplier(events: Iterable[PrivacyEvent]) -> float:
    """Return the noise multiplier of the one Gaussian release that tells as much as all events together.

    Infinity stands for no event at all, 0 for exact sums.
    """
    loss = 0.0
    for event in events:
        if not (isinstance(event, GaussianEvent) and event.noise_multiplier):
            return 0.0
        loss += event.releases / event.noise_multiplier**2
    return 1 / sqrt(loss) if loss else inf


def least_multiplier(epsilon: float, delta: float) -> float:
    """Return the smallest noise multiplier of one Gaussian release that keeps `epsilon` at `delta`.

    It is at most `MOST_MULTIPLIER`.
    """

    def excess(log_multiplier: float) -> float:
        return log(_delta(epsilon, exp(log_multiplier)) / delta)

    least, most = log(1 / MOST_MULTIPLIER), log(MOST_MULTIPLIER)
    if excess(most) > 0:
        return MOST_MULTIPLIER
    return exp(_root(excess, least, most)) if excess(least) > 0 else exp(least)


def _delta(epsilon: float, multiplier: float) -> float:
    """Return at which delta a Gaussian release keeps `epsilon`, or LEAST where that is less."""
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss  # noqa: PLC0415 - takes two seconds

    loss = GaussianPrivacyLoss(multiplier, log_mass_truncation_bound=LOG_OF_TAIL)
    return max(float(loss.get_delta_for_epsilon(epsilon)), LEAST)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function is 0, between two places where it has different signs."""
    from scipy.optimize import brentq  # noqa: PLC0415 - most plans have no noise, and need not wait for it

    return float(brentq(function, low, high, xtol=1e-12))
