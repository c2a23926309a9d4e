"""The aggregator's side of the `evaluation` release: opened sums become a perplexity for each candidate."""

from collections.abc import Iterable
from math import exp
from typing import Final

from crypto.encoding.fixed_point import decode
from crypto.errors import CorruptSum
from crypto.plan import NLL_FRACTION_BITS, NLL_SECTION, TOKENS_SECTION
from silo_agent.rounds.opened_sum import OpenedChunk
from sparsilo.v1 import plan_pb2

MOST_NATS: Final = 700
"""A token; a perplexity near the largest float, and far from any model's."""


def open_evaluation(spec: plan_pb2.Evaluation, chunks: Iterable[OpenedChunk]) -> dict[str, float]:
    """Perplexity of each candidate by name, over all survivors' held-out tokens together."""
    sums: dict[str, list[int]] = {NLL_SECTION: [], TOKENS_SECTION: []}
    for chunk, values in chunks:
        sums[chunk.section.name] += values.tolist()
    if len(set(sums[TOKENS_SECTION])) != 1 or not sums[TOKENS_SECTION][0]:
        raise CorruptSum("the candidates were not evaluated on one set of tokens")
    most = sums[TOKENS_SECTION][0] * MOST_NATS << NLL_FRACTION_BITS
    if any(nll > most for nll in sums[NLL_SECTION]):
        raise CorruptSum(f"a candidate's negative log-likelihood is above {MOST_NATS} nats a token")
    return {
        candidate.name: exp(decode(nll, NLL_FRACTION_BITS) / tokens)
        for candidate, nll, tokens in zip(spec.candidates, sums[NLL_SECTION], sums[TOKENS_SECTION], strict=True)
    }
