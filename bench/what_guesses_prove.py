"""What guesses prove of epsilon, and how well scores tell records that are there from others (one-run audit)."""

from dataclasses import dataclass
from math import erf, exp, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom, rankdata

from bench.energies_in_one_place import DELTA

Floats = NDArray[np.float64]
Members = NDArray[np.bool_]
"""Which canaries are there in which runs: bool [runs, canaries]."""

SURE: Final = 0.95
GUESSED: Final = (
    0.1  # of all canaries of all runs: chosen beforehand, for whoever chooses by what comes out proves nothing
)


def p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return how probable `right` or more right guesses are at most where (`epsilon`, `delta`) is kept.

    Somebody who sees what is opened makes `guesses` of `canaries`, each of which was there with probability 1/2. It is
    the bound of Steinke, Nasr and Jagielski (arXiv 2305.08846, appendix D): as many as of coins that are right with
    probability exp(epsilon) / (1 + exp(epsilon)), and what delta adds.
    """
    chance = expit(epsilon)
    of_fewer = np.cumsum(binom.pmf(np.arange(right)[::-1], guesses, chance)) / np.arange(1, right + 1)
    by_delta = 2 * canaries * delta * of_fewer.max(initial=0)
    return min(1.0, float(binom.sf(right - 1, guesses, chance) + by_delta))


def least_epsilon(right: int, guesses: int, canaries: int, delta: float) -> float:
    """Return the largest epsilon that so many right guesses disprove, with confidence `SURE`; 0 where they prove
    nothing.
    """

    def excess(epsilon: float) -> float:
        return p_value(right, guesses, canaries, epsilon, delta) - (1 - SURE)

    return 0.0 if excess(0) >= 0 else float(brentq(excess, 0, 50))


def most_advantage(epsilon: float | None, delta: float) -> float:
    """Return the most by which true positives exceed false ones, as rates, where (`epsilon`, `delta`) is kept."""
    without = 0.0 if epsilon is None else exp(-epsilon)
    return (1 - without * (1 - 2 * delta)) / (1 + without)


def gaussian_advantage(multiplier: float) -> float:
    """Return the same for Gaussian noise of so many times what one unit contributes: what no attack can exceed that
    knows all other units.
    """
    return erf(1 / multiplier / sqrt(8))


@dataclass(frozen=True)
class Figures:
    """How well somebody tells records that are there from others, and what that proves."""

    advantage: float
    """True positives less false ones, as rates, at a threshold that the other half of the runs chose."""
    auc: float
    right: int
    guesses: int
    least_epsilon: float

    @classmethod
    def of(cls, scores: Floats, members: Members) -> "Figures":
        """Return the figures of scores that are the higher the surer somebody is that a canary is there.

        Both are [runs, canaries]. As many guesses say of the highest scores that those canaries are there, as say of
        the lowest that those are not.
        """
        half, order = len(scores) // 2, np.argsort(scores, axis=None)

        def advantage(runs: slice, threshold: float) -> float:
            above = scores[runs] > threshold
            return float(above[members[runs]].mean() - above[~members[runs]].mean())

        def judged(by: slice, runs: slice) -> float:
            tried = np.quantile(scores[by], np.linspace(0, 1, 101))
            return advantage(runs, max(tried, key=lambda threshold: advantage(by, threshold)))

        first, second = slice(half), slice(half, None)
        present, absent = members.sum(), (~members).sum()
        above_others = rankdata(scores).reshape(scores.shape)[members].sum() - present * (present + 1) / 2
        each = max(1, round(GUESSED * scores.size / 2))
        right = int(members.flat[order[-each:]].sum() + (~members).flat[order[:each]].sum())
        return cls(
            (judged(first, second) + judged(second, first)) / 2,
            float(above_others / present / absent),
            right,
            2 * each,
            least_epsilon(right, 2 * each, scores.size, DELTA),
        )


def log_odds(contributions: Floats, opened: Floats, deviation: float | Floats) -> Floats:
    """Return for each run and canary the logarithm of the odds that it is there: float64 [runs, canaries].

    `contributions` are [canaries, lanes], and `opened`, [runs, lanes], are the sums of those that are there and of
    Gaussian noise with `deviation`. The odds are those of the best linear estimate: a matched filter that also reckons
    with the other canaries, each of which is 0 or 1 with variance 1/4.
    """
    signals, middle = contributions / deviation, (opened - contributions.sum(0) / 2) / deviation
    covariance = np.linalg.inv(signals @ signals.T + 4 * np.eye(len(signals)))
    odds: Floats = middle @ signals.T @ covariance / covariance.diagonal()
    return odds
