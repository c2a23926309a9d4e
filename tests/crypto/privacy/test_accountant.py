"""Epsilon, by four calculations that know nothing of each other."""

import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from crypto.privacy.accountant import combined_multiplier, epsilon, least_multiplier
from crypto.privacy.events import ExactEvent, GaussianEvent, PrivacyEvent

DELTA = 1e-6
MULTIPLIERS = (0.5, 1.2, 4.2, 20.0)


def analytic(multiplier: float) -> float:
    """Balle and Wang's Theorem 8, solved for epsilon."""

    def delta(tried: float) -> float:
        low, high = (sign / (2 * multiplier) - tried * multiplier for sign in (1, -1))
        return float(norm.cdf(low) - math.exp(tried + norm.logcdf(high)))

    return float(brentq(lambda tried: delta(tried) - DELTA, 0, 200))


def by_pld(events: list[GaussianEvent]) -> float:
    accountant = PLDAccountant()
    for event in events:
        accountant.compose(dp_accounting.GaussianDpEvent(event.noise_multiplier), event.releases)
    return float(accountant.get_epsilon(DELTA))


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_one_release_is_what_the_closed_form_and_the_loss_distribution_say(multiplier: float) -> None:
    ours = epsilon([GaussianEvent(multiplier)], DELTA)
    assert ours == pytest.approx(analytic(multiplier), rel=1e-4)
    assert ours == pytest.approx(by_pld([GaussianEvent(multiplier)]), rel=0.01)


@pytest.mark.parametrize("releases", [2, 6, 32])
def test_releases_compose_as_the_loss_distribution_does(releases: int) -> None:
    events = [GaussianEvent(12.0, releases), GaussianEvent(20.0)]
    assert epsilon(events, DELTA) == pytest.approx(by_pld(events), rel=0.01)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("multiplier", [1.2, 4.2])
def test_opacus_says_the_same(multiplier: float) -> None:
    """Its accountant is for training: a release is a step that samples everybody."""
    accountant = PRVAccountant()
    accountant.history = [(multiplier, 1.0, 1)]
    assert epsilon([GaussianEvent(multiplier)], DELTA) == pytest.approx(
        accountant.get_epsilon(DELTA, eps_error=1e-3, delta_error=DELTA / 1000), rel=0.01
    )


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_renyi_bounds_lie_above_and_not_far(multiplier: float) -> None:
    """Bounds by Renyi divergences are not tight: they may not be below, and are within a fifth here."""
    ours = epsilon([GaussianEvent(multiplier)], DELTA)
    google, opacus = RdpAccountant(), RDPAccountant()
    google.compose(dp_accounting.GaussianDpEvent(multiplier))
    opacus.history = [(multiplier, 1.0, 1)]
    for bound in (google.get_epsilon(DELTA), opacus.get_epsilon(DELTA, alphas=[1 + x / 20 for x in range(1, 4000)])):
        assert ours * 0.999 <= bound <= ours * 1.2


@pytest.mark.parametrize("wanted", [0.5, 1.0, 4.0, 16.0])
def test_the_least_multiplier_keeps_what_is_wanted_and_no_more(wanted: float) -> None:
    multiplier = least_multiplier(wanted, DELTA)
    assert epsilon([GaussianEvent(multiplier)], DELTA) == pytest.approx(wanted, rel=1e-5)
    assert analytic(multiplier) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("events", "due"),
    [
        ([], 0.0),
        ([ExactEvent()], math.inf),
        ([GaussianEvent(5.0), ExactEvent()], math.inf),
        ([GaussianEvent(1e9)], 0.0),
    ],
)
def test_the_ends(events: list[PrivacyEvent], due: float) -> None:
    assert epsilon(events, DELTA) == due


def test_an_absurd_epsilon_is_a_number_all_the_same() -> None:
    """What the noise for one person keeps of a whole silo: a million times the clip."""
    assert epsilon([GaussianEvent(1e-5)], DELTA) == pytest.approx(1 / (2 * 1e-10), rel=0.01)


def test_asking_twice_costs_twice_as_much_loss() -> None:
    assert combined_multiplier([GaussianEvent(3.0)] * 2) == pytest.approx(3 / math.sqrt(2))
    assert combined_multiplier([GaussianEvent(3.0, 4)]) == pytest.approx(1.5)
