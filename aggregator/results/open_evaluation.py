"""The aggregator's side of the `evaluation` release: opened sums become a perplexity for each candidate."""

from collections.abc import Iterable
from math import exp
from typing import Final

from crypto.encoding.fixed_point import decode
from crypto.errors import CorruptSum
from crypto.releases.evaluation import NLL_FRACTION_BITS, NLL_SECTION, TOKENS_SECTION
from silo_agent.rounds.opened_sum import OpenedChunk
from sparsilo.v1 import plan_pb2

MOST_NATS: Final = 700
"""The largest negative log-likelihood of a token: its perplexity is near the largest float, far from any model's."""


def open_evaluation(spec: plan_pb2.Evaluation, chunks: Iterable[OpenedChunk]) -> dict[str, float]:
    """Return the perplexity of each candidate by name, over all survivors' held-out tokens together.

    Raises CorruptSum where the candidates were not evaluated on the same tokens, or a sum is too large for a model's.
    """
    sums: dict[str, list[int]] = {NLL_SECTION: [], TOKENS_SECTION: []}
    for chunk, values in chunks:
        sums[chunk.section.name] += values.tolist()
    nlls, tokens = sums[NLL_SECTION], sums[TOKENS_SECTION]
    if len(set(tokens)) != 1 or not tokens[0]:
        raise CorruptSum("the candidates were not evaluated on one set of tokens")
    if any(nll > tokens[0] * MOST_NATS << NLL_FRACTION_BITS for nll in nlls):
        raise CorruptSum(f"a candidate's negative log-likelihood is above {MOST_NATS} nats a token")
    return {
        candidate.name: exp(decode(nll, NLL_FRACTION_BITS) / tokens[0])
        for candidate, nll in zip(spec.candidates, nlls, strict=True)
    }
