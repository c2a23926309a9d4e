"""What privacy events come to: epsilon at a delta, by the privacy loss of the dp_accounting library.

Gaussian releases compose to a Gaussian release, whatever later ones learn from earlier ones (Dong et al., "Gaussian
Differential Privacy", arXiv 1905.02383, Corollary 3.3; also where what is asked next depends on what was seen: Smith
and Thakurta, arXiv 2210.17520). So one multiplier stands for all of them, and the library has its loss in closed form
(Balle and Wang, arXiv 1805.06530, Theorem 8).
"""

from collections.abc import Iterable
from math import exp, inf, isinf, log, sqrt
from typing import Final

from crypto.privacy.events import GaussianEvent, PrivacyEvent

MOST_MULTIPLIER: Final = 1e9


def epsilon(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Return the epsilon that all these events keep together, with probability 1 - `delta`; infinity where none.

    Two data sets are neighbours where one unit's text is empty in one of them.
    """
    multiplier = combined_multiplier(events)
    if multiplier == 0:
        return inf
    if isinf(multiplier):
        return 0.0
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss  # noqa: PLC0415 - two seconds, seldom needed
    from scipy.optimize import brentq  # noqa: PLC0415

    loss = GaussianPrivacyLoss(multiplier, log_mass_truncation_bound=-500)
    if loss.get_delta_for_epsilon(0) <= delta:
        return 0.0
    rho = 1 / (2 * multiplier**2)
    enough = rho + 2 * sqrt(rho * log(1 / delta))  # Bun and Steinke, arXiv 1605.02065, Proposition 1.3
    exact = brentq(lambda tried: log(max(loss.get_delta_for_epsilon(tried), 1e-300) / delta), 0, enough)
    return float(exact)


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

    It is at most `MOST_MULTIPLIER`, which is far more than leaves anything of a sum.
    """
    from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss  # noqa: PLC0415 - as above
    from scipy.optimize import brentq  # noqa: PLC0415

    def excess(log_multiplier: float) -> float:
        loss = GaussianPrivacyLoss(exp(log_multiplier), log_mass_truncation_bound=-500)
        return log(max(float(loss.get_delta_for_epsilon(epsilon)), 1e-300) / delta)

    least, most = log(1 / MOST_MULTIPLIER), log(MOST_MULTIPLIER)
    if excess(most) > 0:
        return MOST_MULTIPLIER
    return exp(brentq(excess, least, most, xtol=1e-12)) if excess(least) > 0 else exp(least)
