"""The one-run audit's calculations: against the paper's examples, sums by hand, and a mechanism of known epsilon."""

import math
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from bench import one_run_audit
from bench.one_run_audit import ENERGIES, FAULTY, NOISY, VOTES, Fault, claims_of, part, write
from bench.privacy_audit import NOISE_PART
from bench.what_guesses_prove import Figures, gaussian_advantage, least_epsilon, log_odds, most_advantage, p_value
from crypto.privacy.accountant import least_multiplier
from silo_agent.releases import contributed_energies, noise

CASES = (VOTES, ENERGIES, *NOISY, *FAULTY)
FIGURES = Figures(0.5, 0.75, 9, 10, 0.25)


def test_the_papers_examples() -> None:
    """Steinke, Nasr and Jagielski (arXiv 2305.08846), appendix D and section 7; the second is printed cut off."""
    assert least_epsilon(75, 100, 1000, 1e-4) == pytest.approx(0.673, abs=5e-4)
    assert math.floor(least_epsilon(1439, 1510, 100_000, 1e-5) * 1000) == 2675


def test_guesses_that_are_all_right_prove_what_a_coin_would_do_once_in_twenty() -> None:
    chance = 0.05 ** (1 / 100)
    assert least_epsilon(100, 100, 100, 0) == pytest.approx(math.log(chance / (1 - chance)))


def test_a_coin_proves_nothing() -> None:
    assert least_epsilon(50, 100, 100, 0) == least_epsilon(0, 100, 100, 0) == least_epsilon(0, 0, 0, 0) == 0


def test_more_right_guesses_prove_more_and_a_larger_delta_or_more_canaries_less() -> None:
    proven = [least_epsilon(right, 100, 100, 1e-6) for right in range(60, 101)]
    assert proven == sorted(set(proven)) and proven[0] > 0
    by_delta = [least_epsilon(95, 100, 100, delta) for delta in (0, 1e-6, 1e-4, 1e-3)]
    by_canaries = [least_epsilon(95, 100, canaries, 1e-6) for canaries in (100, 1000, 10_000)]
    for falling in (by_delta, by_canaries):
        assert falling == sorted(set(falling), reverse=True)


@pytest.mark.parametrize("right", [0, 1, 5, 8, 10])
def test_what_delta_adds_is_summed_by_hand(right: int) -> None:
    """With epsilon log 3 a guess is right with probability 3/4."""
    chances = [math.comb(10, k) * Fraction(3, 4) ** k * Fraction(1, 4) ** (10 - k) for k in range(11)]
    added = max((sum(chances[right - i : right]) / i for i in range(1, right + 1)), default=0)
    expected = min(1, sum(chances[right:]) + 2 * 40 * Fraction(1, 1000) * added)
    assert p_value(right, 10, 40, math.log(3), 0.001) == pytest.approx(float(expected))


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_of_randomised_response_more_than_it_loses_is_proven_once_in_twenty_times_at_most(epsilon: float) -> None:
    """It says truly of each canary whether it is there, with probability exp(epsilon) / (1 + exp(epsilon))."""
    random = np.random.default_rng(7)
    present = random.random((20_000, 100)) < 0.5
    said = present ^ (random.random(present.shape) > 1 / (1 + math.exp(-epsilon)))
    right, trials = np.unique((said == present).sum(1), return_counts=True)
    proven = np.repeat([least_epsilon(int(count), 100, 100, 0) for count in right], trials)
    assert 0.02 < (proven > epsilon).mean() <= 0.05
    assert np.median(proven) > epsilon / 4


def test_bounds_on_the_advantage() -> None:
    assert most_advantage(1.0, 0) == pytest.approx((math.e - 1) / (math.e + 1))
    assert most_advantage(0.0, 0.01) == pytest.approx(0.01)
    assert most_advantage(None, 1e-6) == 1
    assert gaussian_advantage(2.0) == pytest.approx(2 * NormalDist().cdf(1 / 4) - 1)
    for epsilon in (0.5, 1.0, 4.0, 16.0):
        assert gaussian_advantage(least_multiplier(epsilon, 1e-6)) < most_advantage(epsilon, 1e-6)


def test_the_odds_of_one_record_are_those_of_two_gaussians() -> None:
    signal, opened, deviation = np.array([3.0, -1.0]), np.array([2.0, 5.0]), 1.5
    densities = [sum((opened - signal * there) ** 2) / (-2 * deviation**2) for there in (True, False)]
    assert log_odds(signal[None], opened[None], deviation)[0, 0] == pytest.approx(densities[0] - densities[1])


def test_records_that_look_alike_are_told_apart_where_noise_is_small() -> None:
    random = np.random.default_rng(3)
    contributions = 10 + random.standard_normal((8, 60))
    members = random.random((50, 8)) < 0.5
    opened = members @ contributions + 0.01 * random.standard_normal((50, 60))
    assert np.array_equal(log_odds(contributions, opened, 0.01) > 0, members)
    assert np.array_equal(log_odds(contributions, opened, np.full(60, 0.01)) > 0, members)


def test_figures_of_who_knows_and_of_who_does_not() -> None:
    members = np.arange(400).reshape(20, 20) % 3 == 0
    known = Figures.of(np.where(members, 1.0, -1.0), members)
    assert (known.advantage, known.auc, known.right, known.guesses) == (1, 1, 40, 40)
    unknown = Figures.of(np.zeros(members.shape), members)
    assert (unknown.advantage, unknown.auc) == (0, 0.5)
    wrong = Figures.of(np.where(members, -1.0, 1.0), members)
    assert (wrong.auc, wrong.right, wrong.least_epsilon) == (0, 0, 0)


def test_faults_are_planted_and_taken_out_again() -> None:
    values, before = np.full(4, 50.0), (contributed_energies.contribution, noise.discrete_gaussian)
    with Fault.NO_CLIP.planted():
        assert contributed_energies.contribution(values, 1.0, 1000).tolist() == [50_000] * 4
    with Fault.LITTLE_NOISE.planted():
        assert noise.discrete_gaussian is not before[1]
    with Fault.NONE.planted():
        assert (contributed_energies.contribution, noise.discrete_gaussian) == before
    assert np.linalg.norm(contributed_energies.contribution(values, 1.0, 1000)) <= 1000


def test_a_promise_must_hold_and_a_fault_must_show() -> None:
    claims = claims_of(dict.fromkeys(CASES, FIGURES))
    assert {name for name, claim in claims.items() if not claim["met"]} == {
        "advantage at epsilon 1",
        *(f"epsilon shown of {case.epsilon:g}, {case.fault}" for case in FAULTY),
    }


def test_the_part_has_a_row_for_each_case_and_leaves_the_first_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(one_run_audit, "PAGE", page)
    page.write_text("# First\n\nwords\n")
    text = part(dict.fromkeys(CASES, FIGURES), dict.fromkeys((16.0, 4.0, 1.0), 0.4), runs=12, exact_runs=34)
    for _ in range(2):
        write(text)
        assert page.read_text() == f"# First\n\nwords\n{NOISE_PART}{text}"
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []
    assert text.count("9 of 10") == len(CASES)
    assert "12 runs with noise and 34 without" in text
