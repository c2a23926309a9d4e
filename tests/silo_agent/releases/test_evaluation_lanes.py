"""An evaluation's numbers as lanes: negative log-likelihoods and squared differences in fixed point, token counts."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import PlanError
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.evaluation import compared
from crypto.releases.release_spec import layout_of
from silo_agent.releases.evaluation import EvaluationRelease
from sparsilo.v1 import plan_pb2
from support.opened import released
from support.plans import plan_message

NLL, TOKENS, SQUARES = "negative log-likelihood", "tokens", "squared differences"


def evaluation_plan(candidates: int, chunk_words: int) -> Plan:
    message = plan_message(5, chunk_words=chunk_words)
    evaluation = plan_pb2.Evaluation(sequences=2)
    for index in range(candidates):
        evaluation.candidates.add(name=f"candidate {index}", digest=bytes([index] * 32))
    message.rounds[0].CopyFrom(plan_pb2.Round(evaluation=evaluation))
    return checked_plan(message)


def plan_with_pruned(candidates: int, at: int, chunk_words: int = 4, sequences: int = 2) -> Plan:
    """Candidate `at` is what the silos pruned together in the round before, the others are made by each itself."""
    message = plan_message(5, chunk_words=chunk_words)
    evaluation = plan_pb2.Evaluation(sequences=sequences)
    for index in range(candidates):
        evaluation.candidates.add(name=f"candidate {index}", **{"own" if index % 2 else "self_calibrated": True})
    evaluation.candidates[at].pruned = True
    message.rounds.add(evaluation=evaluation)
    return checked_plan(message)


@given(
    st.lists(st.lists(st.floats(0, 1e4), min_size=3, max_size=3), min_size=1, max_size=7),
    st.integers(1, 2**40),
    st.integers(1, 3),
)
def test_evaluation_lanes_are_fixed_point_and_counts(losses: list[list[float]], tokens: int, chunk_words: int) -> None:
    plan = evaluation_plan(len(losses), chunk_words)
    lanes = released(EvaluationRelease([np.array(each) for each in losses], tokens, [], 5), plan)
    with localcontext(prec=1200):  # a float64 has at most 1074 decimals
        scaled = [Decimal(float(sum(map(Fraction, each)))) * 2**24 for each in losses]
        rounded = [int(value.to_integral_value(ROUND_HALF_EVEN)) for value in scaled]
    assert lanes == {NLL: rounded, TOKENS: [3 * tokens] * len(losses)}


@pytest.mark.clause("2.4.4")
@given(
    st.lists(st.lists(st.floats(0, 15 * 700), min_size=2, max_size=2), min_size=2, max_size=6),
    st.integers(0, 5),
    st.integers(1, 3),
)
def test_squares_are_of_how_far_each_sequence_is_from_the_pruned_candidate(
    losses: list[list[float]], at: int, chunk_words: int
) -> None:
    """In nats a token of 15, by exact fractions; the lane is off by what float64 is, and one rounding."""
    at %= len(losses)
    plan = plan_with_pruned(len(losses), at, chunk_words)
    pairs = [(other, at) for other in range(len(losses)) if other != at]
    assert compared(plan.message.rounds[1].evaluation) == pairs
    lanes = released(EvaluationRelease([np.array(each) for each in losses], 15, pairs, 5), plan, 1)
    exact = [
        sum(((Fraction(nll) - Fraction(other)) / 15) ** 2 for nll, other in zip(each, losses[at], strict=True))
        for place, each in enumerate(losses)
        if place != at
    ]
    for lane, square in zip(lanes[SQUARES], exact, strict=True):
        assert abs(lane - square * 2**24) <= Fraction(1, 2) + square * 2**24 / 2**50


def test_without_a_pruned_candidate_a_round_is_as_it_was() -> None:
    plan = evaluation_plan(3, 2)
    assert [(section.name, section.lanes, section.width) for section in layout_of(plan, 0).sections] == [
        (NLL, 3, 64),
        (TOKENS, 3, 64),
    ]
    sections = layout_of(plan_with_pruned(3, 1, 2), 1).sections
    assert [(section.name, section.lanes) for section in sections] == [(NLL, 3), (TOKENS, 3), (SQUARES, 2)]


@pytest.mark.clause("2.4.4")
def test_keep_masks_from_outside_are_never_squared() -> None:
    """Squares show a single sequence that stands out, and whoever chose the masks could ask for it."""
    message = plan_with_pruned(3, 1).message
    message.rounds[1].evaluation.candidates[0].digest = bytes(32)
    assert compared(message.rounds[1].evaluation) == [(2, 1)]
    message.rounds[1].evaluation.candidates[2].dense = True
    assert [section.name for section in layout_of(checked_plan(message), 1).sections] == [NLL, TOKENS]


@pytest.mark.parametrize("nll", [-1e-9, float("nan"), float("inf"), 2.0**40 / 5])
def test_what_cannot_be_summed_is_refused(nll: float) -> None:
    with pytest.raises(PlanError):
        EvaluationRelease([np.array([1.0]), np.array([nll])], 5, [], 5)


@pytest.mark.clause("2.4.4", "14.2.1")
def test_a_plan_under_which_a_sum_might_not_be_exact_is_refused() -> None:
    message = evaluation_plan(1, 1).message
    message.rounds[0].evaluation.sequences = sequences = (2**64 - 1) // (700 << 24) // 5 // 16
    checked_plan(message)
    EvaluationRelease([np.array([700.0 * sequences * 15])], sequences * 15, [], 5)
    message.rounds[0].evaluation.sequences += 1
    with pytest.raises(PlanError, match=r"rounds\[0\]: 1,570,7[0-9,]+ held-out tokens of all silos are too many"):
        checked_plan(message)


@pytest.mark.clause("2.4.4", "14.2.1")
def test_whatever_text_does_to_a_model_its_squares_fit() -> None:
    """At most as many sequences as a plan may ask for, with every token at 0 in one model and at 700 in the other."""
    sequences = (2**64 - 1) // (700**2 << 24) // 5
    plan = plan_with_pruned(2, 0, sequences=sequences)
    losses = [np.zeros(sequences), np.full(sequences, 700.0 * 15)]
    lanes = released(EvaluationRelease(losses, 15, [(1, 0)], 5), plan, 1)
    assert lanes[SQUARES] == [sequences * 700**2 << 24]
    assert 5 * lanes[SQUARES][0] < 2**64
    with pytest.raises(PlanError, match=r"rounds\[1\]: 2,2[0-9,]+ held-out sequences of all silos are too many"):
        plan_with_pruned(2, 0, sequences=sequences + 1)


def test_the_largest_sum_still_fits() -> None:
    nll = float(np.nextafter(2.0**38, 0))
    release = EvaluationRelease([np.array([nll])], 5, [], 4)
    total = 4 * int(release.lanes(layout_of(evaluation_plan(1, 1), 0).chunks[0])[0])
    assert 2**64 - 2**12 <= total < 2**64
