"""The silo's side of the `evaluation` kind: how well each candidate predicts text that this silo holds out.

Two numbers a candidate, the summed negative log-likelihood in fixed point and the token count; and for what a silo
makes by itself, how far it is from what all made together, squared, sequence by sequence: what the uncertainty of their
difference follows from. The text stays where it is.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from math import exp, fsum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import decode, encode
from crypto.encoding.layout import Chunk, OpenedChunk
from crypto.errors import CorruptSum
from crypto.plan import Plan
from crypto.releases.evaluation import (
    MOST_NATS,
    NLL_FRACTION_BITS,
    NLL_SECTION,
    SQUARES_SECTION,
    TOKENS_SECTION,
    compared,
)
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.model.paired_difference import PairedDifference
from silo_agent.model.perplexity import losses_by_sequence
from silo_agent.releases.silo_side import SiloWork
from sparsilo.v1 import plan_pb2

_SHOWN: Final = {"dense": "dense", "self_calibrated": "self-calibrated", "own": "own", "pruned": "federated"}
"""How this silo's log calls what a candidate is; the names in a plan may say anything."""

_log = logging.getLogger(__name__)


def prepare(work: SiloWork) -> "EvaluationRelease":
    """Run every candidate on the held-out sequences."""
    evaluation = work.plan.message.rounds[work.index].evaluation
    _, held_out = work.sequences(evaluation.sequences)
    losses = []
    for done, candidate in enumerate(evaluation.candidates):
        work.progress("evaluating candidates", done, len(evaluation.candidates))
        losses.append(losses_by_sequence(work.weights, held_out, _changed(work, candidate), device=work.device).numpy())
    work.progress("evaluating candidates", len(evaluation.candidates), len(evaluation.candidates))
    tokens = held_out.shape[1] - 1
    _log_own_figures(evaluation, [of_candidate / tokens for of_candidate in losses])
    return EvaluationRelease(losses, tokens, compared(evaluation), len(work.plan.silos))


def _changed(work: SiloWork, candidate: plan_pb2.Candidate) -> Mapping[str, Tensor]:
    """Return the keep masks or weights that a candidate has in place of the dense model's, by parameter name."""
    match candidate.WhichOneof("keep_mask"):
        case "digest":
            return work.candidate(candidate.digest)
        case "pruned":
            return work.together()
        case "own":
            return PrunedFile(work.pruned().changed)
        case "self_calibrated":
            return PrunedFile(work.self_calibrated().changed)
        case _:
            return {}


def _log_own_figures(evaluation: plan_pb2.Evaluation, losses: Sequence[NDArray[np.float64]]) -> None:
    """Log what the candidates come to on this silo's own text, [sequences] nats a token each: nobody else learns it."""
    by_kind = {
        _SHOWN[kind]: of_candidate
        for candidate, of_candidate in zip(evaluation.candidates, losses, strict=True)
        if (kind := candidate.WhichOneof("keep_mask") or "") in _SHOWN
    }
    if not by_kind:
        return
    figures = [f"{kind} {exp(of_candidate.mean()):.2f}" for kind, of_candidate in by_kind.items()]
    _log.info("perplexity on this silo's own held-out text: %s", ", ".join(figures))
    for kind in ("self-calibrated", "own"):
        if kind in by_kind and "federated" in by_kind:
            difference = PairedDifference.of((by_kind["federated"] - by_kind[kind]).tolist())
            told = " (cannot be told apart)" if difference.verdict == "cannot_be_told_apart" else ""
            _log.info("for this silo: federated perplexity is %s than %s%s", difference.in_words, kind, told)


def perplexities(spec: plan_pb2.Evaluation, chunks: Iterable[OpenedChunk]) -> dict[str, float]:
    """Return the perplexity of each candidate by name, over all survivors' held-out tokens together.

    Raises CorruptSum where the candidates were not evaluated on the same tokens, or a sum is too large for a model's.
    """
    nlls, tokens, _ = _sums(chunks)
    return {
        candidate.name: exp(decode(nll, NLL_FRACTION_BITS) / tokens)
        for candidate, nll in zip(spec.candidates, nlls, strict=True)
    }


def differences(plan: Plan, index: int, chunks: Iterable[OpenedChunk]) -> dict[str, PairedDifference]:
    """Return by name how what the silos pruned together differs from each candidate that is `compared` with it.

    A negative mean says that it predicts all survivors' held-out sequences better. Raises CorruptSum also where the
    sums are of no whole sequences, or no differences have them.
    """
    evaluation, length = plan.message.rounds[index].evaluation, plan.message.pruning.sequence_length - 1
    pairs = compared(evaluation)
    if not pairs:
        return {}
    nlls, tokens, squares = _sums(chunks)
    sequences = tokens // length
    if tokens % length or sequences < 2:
        raise CorruptSum(f"{tokens} tokens are no whole sequences of several silos")
    if any(square > sequences * MOST_NATS**2 << NLL_FRACTION_BITS for square in squares):
        raise CorruptSum(f"a candidate's squared differences are above {MOST_NATS}^2 a sequence")
    by_name = {}
    for (at, pruned), square in zip(pairs, squares, strict=True):
        total = decode(nlls[pruned] - nlls[at], NLL_FRACTION_BITS) / length
        by_name[evaluation.candidates[at].name] = PairedDifference(total, decode(square, NLL_FRACTION_BITS), sequences)
    return by_name


def _sums(chunks: Iterable[OpenedChunk]) -> tuple[list[int], int, list[int]]:
    """Return negative log-likelihoods, tokens, and squared differences as they were summed."""
    sums: dict[str, list[int]] = {NLL_SECTION: [], TOKENS_SECTION: [], SQUARES_SECTION: []}
    for chunk, values in chunks:
        sums[chunk.section.name] += values.tolist()
    nlls, tokens = sums[NLL_SECTION], sums[TOKENS_SECTION]
    if len(set(tokens)) != 1 or not tokens[0]:
        raise CorruptSum("the candidates were not evaluated on one set of tokens")
    if any(nll > tokens[0] * MOST_NATS << NLL_FRACTION_BITS for nll in nlls):
        raise CorruptSum(f"a candidate's negative log-likelihood is above {MOST_NATS} nats a token")
    return nlls, tokens[0], sums[SQUARES_SECTION]


class EvaluationRelease:
    """The lanes of one round, made of each candidate's negative log-likelihoods by sequence of `tokens`, in nats.

    They are in the plan's order, float64 [sequences]. `pairs` has the places of those that are squared, each with that
    of the one that it is held against. Raises PlanError where a sum over `silos` silos could not be exact.
    """

    def __init__(
        self, losses: Sequence[NDArray[np.float64]], tokens: int, pairs: Sequence[tuple[int, int]], silos: int
    ) -> None:
        apart = [(losses[at] - losses[against]) / tokens for at, against in pairs]
        self._lanes = {
            NLL_SECTION: [encode(fsum(nlls), NLL_FRACTION_BITS, silos) for nlls in losses],
            TOKENS_SECTION: [tokens * len(nlls) for nlls in losses],
            SQUARES_SECTION: [encode(fsum(far * far), NLL_FRACTION_BITS, silos) for far in apart],
        }

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        return np.array(self._lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes], np.uint64)
