"""Perplexity's two numbers as lanes: negative log-likelihoods in fixed point, and token counts."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding.layout import pack_chunk
from crypto.errors import PlanError
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from silo_agent.releases.evaluation import EvaluationRelease
from sparsilo.v1 import plan_pb2
from support.plans import plan_message


def evaluation_plan(candidates: int, chunk_words: int) -> Plan:
    message = plan_message(5, chunk_words=chunk_words)
    evaluation = plan_pb2.Evaluation(sequences=2)
    for index in range(candidates):
        evaluation.candidates.add(name=f"candidate {index}", digest=bytes([index] * 32))
    message.rounds[0].CopyFrom(plan_pb2.Round(evaluation=evaluation))
    return checked_plan(message)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2**40)), min_size=1, max_size=7), st.integers(1, 3))
def test_evaluation_lanes_are_fixed_point_and_counts(results: list[tuple[float, int]], chunk_words: int) -> None:
    plan = evaluation_plan(len(results), chunk_words)
    lanes: dict[str, list[int]] = {"negative log-likelihood": [], "tokens": []}
    for chunk in layout_of(plan, 0).chunks:
        values = EvaluationRelease(results, 5).lanes(chunk)
        assert pack_chunk(chunk, values)[1:].tolist() == values.tolist(), "a lane is a word"
        lanes[chunk.section.name] += values.tolist()
    with localcontext(prec=1200):  # a float64 has at most 1074 decimals
        scaled = [Decimal(nll) * 2**24 for nll, _ in results]
        rounded = [int(value.to_integral_value(ROUND_HALF_EVEN)) for value in scaled]
    assert lanes == {"negative log-likelihood": rounded, "tokens": [tokens for _, tokens in results]}


@pytest.mark.parametrize("nll", [-1e-9, float("nan"), float("inf"), 2.0**40 / 5])
def test_what_cannot_be_summed_is_refused(nll: float) -> None:
    with pytest.raises(PlanError):
        EvaluationRelease([(1.0, 5), (nll, 5)], 5)


@pytest.mark.clause("2.4.4", "14.2.1")
def test_a_plan_under_which_a_sum_might_not_be_exact_is_refused() -> None:
    message = evaluation_plan(1, 1).message
    message.rounds[0].evaluation.sequences = sequences = (2**64 - 1) // (700 << 24) // 5 // 16
    checked_plan(message)
    EvaluationRelease([(700.0 * sequences * 15, sequences * 15)], 5)
    message.rounds[0].evaluation.sequences += 1
    with pytest.raises(PlanError, match=r"rounds\[0\]: 1,570,7[0-9,]+ held-out tokens of all silos are too many"):
        checked_plan(message)


def test_the_largest_sum_still_fits() -> None:
    nll = float(np.nextafter(2.0**38, 0))
    release = EvaluationRelease([(nll, 5)], 4)
    total = 4 * int(release.lanes(layout_of(evaluation_plan(1, 1), 0).chunks[0])[0])
    assert 2**64 - 2**12 <= total < 2**64
