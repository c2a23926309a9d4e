"""How sure a mean paired difference is, against numpy and the tables of Student's t."""

from math import exp, inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silo_agent.model.paired_difference import PairedDifference, student_quantile


@given(st.lists(st.floats(-700, 700), min_size=4, max_size=40))
def test_mean_and_standard_error_are_numpys(values: list[float]) -> None:
    difference = PairedDifference.of(values)
    assert difference.mean == pytest.approx(np.mean(values), abs=1e-9)
    expected = np.std(values, ddof=1) / np.sqrt(len(values))
    assert difference.standard_error == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert difference.margin == pytest.approx(student_quantile(len(values) - 1) * difference.standard_error)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (3, 3.182),
        (4, 2.776),
        (5, 2.571),
        (7, 2.365),
        (9, 2.262),
        (15, 2.131),
        (31, 2.040),
        (120, 1.980),
        (10**6, 1.960),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, abs=0.004)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 4,000 samples of 8 normal differences with mean 1, the interval of 95% has 1 in it."""
    samples = np.random.default_rng(0).normal(1, 3, (4000, 8))
    differences = [PairedDifference.of(row.tolist()) for row in samples]
    covered = np.mean([abs(difference.mean - 1) <= difference.margin for difference in differences])
    assert covered == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([-0.5, -0.6, -0.4, -0.5], "lower"),
        ([0.5, 0.6, 0.4, 0.5], "higher"),
        ([-0.5, 0.6, -0.4, 0.5], "cannot_be_told_apart"),
        ([0.0] * 9, "cannot_be_told_apart"),
        ([-0.5, -0.6, -0.4], "cannot_be_told_apart"),  # of three sequences nothing is said
    ],
)
def test_verdicts(values: list[float], verdict: str) -> None:
    assert PairedDifference.of(values).verdict == verdict


def test_few_sequences_have_no_bound() -> None:
    assert PairedDifference.of([1.0, 2.0, 3.0]).margin == inf
    assert PairedDifference.of([1.0]).margin == inf


def test_in_words_it_is_perplexity() -> None:
    """A mean of -0.1 nats a token is a perplexity of exp(-0.1); the margin is scaled alike."""
    values = [-0.1 + far for far in (-0.02, 0.02, -0.02, 0.02)]
    margin = exp(-0.1) * 3.182 * np.std(values, ddof=1) / 2
    assert PairedDifference.of(values).in_words == f"9.5% ± {margin:.1%} lower"
    assert PairedDifference.of([0.1] * 4).in_words == "10.5% ± 0.0% higher"
