"""From opened sums to perplexities, and to what federating was worth."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crypto.encoding.layout import OpenedChunk
from crypto.errors import CorruptSum
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.releases.release_spec import layout_of
from silo_agent.releases.evaluation import EvaluationRelease, differences, perplexities
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


def plan_of_comparison(silos: int, sequences: int) -> Plan:
    """Sequences of 16 tokens; the third of four candidates is what the silos pruned together."""
    message = plan_message(silos)
    spec = plan_pb2.Evaluation(sequences=sequences)
    kinds = {"dense": "dense", "nothing shared": "self_calibrated", "federated": "pruned", "mine": "own"}
    for name, kind in kinds.items():
        spec.candidates.add(name=name, **{kind: True})
    message.rounds.add(evaluation=spec)
    return checked_plan(message)


def summed(plan: Plan, of_silos: Sequence[NDArray[np.float64]]) -> Iterator[OpenedChunk]:
    """The lanes that silos with these losses, [candidates, sequences] each, release, added up."""
    releases = [EvaluationRelease(list(losses), 15, [(1, 2), (3, 2)], len(plan.silos)) for losses in of_silos]
    for chunk in layout_of(plan, 1).chunks:
        yield chunk, np.array(sum(release.lanes(chunk) for release in releases), np.uint64)


@pytest.mark.parametrize(("silos", "survivors"), [(5, 5), (5, 3)])
def test_differences_are_numpys_over_the_sequences_of_all_survivors(silos: int, survivors: int) -> None:
    plan, generator = plan_of_comparison(silos, 6), np.random.default_rng(silos)
    hard = generator.uniform(20, 60, (survivors, 1, 6))
    of_silos = hard * generator.uniform(0.9, 1.1, (survivors, 4, 6))
    found = differences(plan, 1, summed(plan, list(of_silos)))
    assert list(found) == ["nothing shared", "mine"]
    by_candidate = of_silos.transpose(1, 0, 2).reshape(4, -1) / 15
    for at, name in ((1, "nothing shared"), (3, "mine")):
        apart = by_candidate[2] - by_candidate[at]
        assert found[name].sequences == survivors * 6
        assert found[name].mean == pytest.approx(apart.mean(), abs=1e-7)
        assert found[name].standard_error == pytest.approx(apart.std(ddof=1) / np.sqrt(apart.size), rel=1e-4)
    perplexity = np.exp(by_candidate[2].mean())
    assert perplexities(plan.message.rounds[1].evaluation, summed(plan, list(of_silos)))["federated"] == pytest.approx(
        perplexity
    )


def test_equal_models_cannot_be_told_apart() -> None:
    plan = plan_of_comparison(4, 3)
    found = differences(plan, 1, summed(plan, [np.full((4, 3), 7.7)] * 4))
    for difference in found.values():
        assert (difference.mean, difference.standard_error) == (0, 0)
        assert difference.verdict == "cannot_be_told_apart"


def test_without_a_pruned_candidate_nothing_is_compared() -> None:
    _, plan = evaluation(2, 4)
    assert differences(plan, 0, chunks(plan, [1 << 24] * 2, [30, 30])) == {}


@pytest.mark.parametrize(
    ("tokens", "square", "problem"),
    [(44, 0, "no whole sequences"), (15, 0, "no whole sequences"), (45, (3 * 700**2 << 24) + 1, "above 700")],
)
def test_sums_that_no_sequences_have(tokens: int, square: int, problem: str) -> None:
    plan = plan_of_comparison(4, 3)
    lanes = {"negative log-likelihood": 1 << 24, "tokens": tokens, "squared differences": square}
    opened = [
        (chunk, np.full(chunk.lanes, lanes[chunk.section.name], np.uint64)) for chunk in layout_of(plan, 1).chunks
    ]
    with pytest.raises(CorruptSum, match=problem):
        differences(plan, 1, opened)
