"""From opened sums to perplexities."""

from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding.layout import OpenedChunk
from crypto.errors import CorruptSum
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from silo_agent.releases.evaluation import perplexities
from sparsilo.v1 import plan_pb2
from support.plans import plan_message


def evaluation(candidates: int, chunk_words: int) -> tuple[plan_pb2.Evaluation, Plan]:
    message = plan_message(5, chunk_words=chunk_words)
    spec = plan_pb2.Evaluation(sequences=2)
    for index in range(candidates):  # in an order that is not the names'
        spec.candidates.add(name=f"candidate {candidates - index}", digest=bytes([index] * 32))
    message.rounds[0].CopyFrom(plan_pb2.Round(evaluation=spec))
    return spec, checked_plan(message)


def chunks(plan: Plan, nll: list[int], tokens: list[int]) -> Iterator[OpenedChunk]:
    lanes = {"negative log-likelihood": nll, "tokens": tokens}
    for chunk in layout_of(plan, 0).chunks:
        yield chunk, np.array(lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes], np.uint64)


def perplexity(nll: int, tokens: int) -> float:
    """exp(nats a token), in 28 decimals."""
    return float((Decimal(nll) / 16777216 / tokens).exp())


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=7), st.integers(2**16, 2**40), st.integers(1, 4))
def test_perplexity_is_over_all_tokens_together(nll: list[int], tokens: int, chunk_words: int) -> None:
    spec, plan = evaluation(len(nll), chunk_words)
    found = perplexities(spec, chunks(plan, nll, [tokens] * len(nll)))
    assert list(found) == [f"candidate {len(nll) - index}" for index in range(len(nll))]
    assert list(found.values()) == pytest.approx([perplexity(each, tokens) for each in nll], rel=1e-12)


def test_a_hand_made_case() -> None:
    spec, plan = evaluation(2, 1)
    found = perplexities(spec, chunks(plan, [0, 6 << 24], [3, 3]))
    assert found == {"candidate 2": 1.0, "candidate 1": pytest.approx(7.38905609893065)}


@pytest.mark.parametrize("tokens", [[5, 5, 4], [4, 5, 5], [0, 0, 0], [5, 0, 5]])
def test_candidates_that_saw_different_tokens_or_none(tokens: list[int]) -> None:
    spec, plan = evaluation(3, 1)
    with pytest.raises(CorruptSum, match="one set of tokens"):
        perplexities(spec, chunks(plan, [1 << 24] * 3, tokens))


def test_no_sum_is_too_large_to_be_a_perplexity() -> None:
    spec, agreed = evaluation(1, 4)
    most = 2 * 700 << 24  # two tokens, 24 fraction bits
    assert perplexities(spec, chunks(agreed, [most], [2]))["candidate 1"] > 1e300
    with pytest.raises(CorruptSum, match="above 700 nats"):
        perplexities(spec, chunks(agreed, [most + 1], [2]))
