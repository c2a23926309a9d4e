"""The silo's side of the `evaluation` kind: how well each candidate predicts text that this silo holds out.

Two numbers a candidate, the summed negative log-likelihood in fixed point and the token count; the text stays where
it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import decode, encode
from crypto.encoding.layout import Chunk, OpenedChunk
from crypto.errors import CorruptSum
from crypto.releases.evaluation import MOST_NATS, NLL_FRACTION_BITS, NLL_SECTION, TOKENS_SECTION
from silo_agent.model.perplexity import negative_log_likelihood
from silo_agent.model.pruned_file import PrunedFile
from silo_agent.releases.silo_side import SiloWork
from sparsilo.v1 import plan_pb2


def prepare(work: SiloWork) -> "EvaluationRelease":
    """Run every candidate on the held-out sequences."""
    evaluation = work.plan.message.rounds[work.index].evaluation
    _, held_out = work.sequences(evaluation.sequences)
    results = []
    for done, candidate in enumerate(evaluation.candidates):
        work.progress("evaluating candidates", done, len(evaluation.candidates))
        changed = _changed(work, candidate)
        results.append(negative_log_likelihood(work.weights, held_out, changed, device=work.device))
    work.progress("evaluating candidates", len(evaluation.candidates), len(evaluation.candidates))
    return EvaluationRelease(results, len(work.plan.silos))


def _changed(work: SiloWork, candidate: plan_pb2.Candidate) -> Mapping[str, Tensor]:
    """Return the keep masks or weights that a candidate has in place of the dense model's, by parameter name."""
    match candidate.WhichOneof("keep_mask"):
        case "digest":
            return work.candidate(candidate.digest)
        case "pruned":
            return work.together()
        case "own":
            return PrunedFile(work.pruned().changed)
        case _:
            return {}


def perplexities(spec: plan_pb2.Evaluation, chunks: Iterable[OpenedChunk]) -> dict[str, float]:
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


class EvaluationRelease:
    """The lanes of one round, made of (summed negative log-likelihood in nats, token count) of each candidate.

    They are in the plan's order. Raises PlanError where a sum over `silos` silos could not be exact.
    """

    def __init__(self, results: Sequence[tuple[float, int]], silos: int) -> None:
        self._lanes = {
            NLL_SECTION: [encode(nll, NLL_FRACTION_BITS, silos) for nll, _ in results],
            TOKENS_SECTION: [tokens for _, tokens in results],
        }

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        return np.array(self._lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes], np.uint64)
