"""The `evaluation` kind: how well candidate models predict the silos' held-out sequences, added up."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

from crypto.encoding.layout import Section
from crypto.errors import PlanError
from crypto.names import ReleaseKind, Schedule
from crypto.plan import DIGEST_BYTES, Plan
from crypto.pruning.pruners import PRUNERS
from crypto.releases.release_spec import ReleaseSpec, spec_of
from sparsilo.v1 import plan_pb2

NLL_SECTION: Final = "negative log-likelihood"
TOKENS_SECTION: Final = "tokens"
SQUARES_SECTION: Final = "squared differences"
NLL_FRACTION_BITS: Final = 24
MOST_NATS: Final = 700
"""The largest negative log-likelihood of a token: its perplexity is near the largest float, far from any model's."""


def compared(evaluation: plan_pb2.Evaluation) -> list[tuple[int, int]]:
    """Return the places of the candidates that are squared, each with that of what the silos pruned together.

    They are what a silo makes by itself, `self_calibrated` and `own`. Keep masks from outside are not: squares stand
    out where a single sequence does, and whoever chose the masks could ask for it.
    """
    candidates = list(enumerate(evaluation.candidates))
    pruned = [at for at, candidate in candidates if candidate.pruned]
    by_itself = [at for at, candidate in candidates if candidate.self_calibrated or candidate.own]
    return [(at, pruned[0]) for at in by_itself if pruned]


class EvaluationSpec(ReleaseSpec):
    """Lanes are whole words, two a candidate: its negative log-likelihood in fixed point, and the tokens.

    A third for those that are `compared`: the squares, added up over all sequences, of how far they are from `pruned`.
    """

    kind = ReleaseKind.EVALUATION
    says = "evaluation"
    stands_alone = True
    opens = (
        "for every candidate the silos' negative log-likelihoods and token counts, added up, and for what each silo "
        "made by itself the squares of how far its sequences are from what they are under what all made together"
    )
    not_protected: ClassVar[tuple[str, ...]] = (
        "What is added up in an evaluation may be mostly one silo's: of its likelihoods where a candidate fails on its "
        "text alone, and of their squares even more so.",
    )

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield the two sections, or three."""
        del silos
        evaluation = plan.message.rounds[index].evaluation
        yield Section(NLL_SECTION, len(evaluation.candidates), 64)
        yield Section(TOKENS_SECTION, len(evaluation.candidates), 64)
        if squared := compared(evaluation):
            yield Section(SQUARES_SECTION, len(squared), 64)

    def starts_from_earlier(self, plan: Plan, index: int) -> bool:
        """Return whether a candidate is what the rounds before made; what came from outside stands for itself."""
        return any(candidate.pruned or candidate.own for candidate in plan.message.rounds[index].evaluation.candidates)

    def check(self, plan: Plan, index: int) -> None:
        """Refuse an evaluation of nothing, of more tokens than a lane holds, and candidates not named properly."""
        evaluation, field = plan.message.rounds[index].evaluation, f"plan: rounds[{index}]"
        if not evaluation.sequences:
            raise PlanError(f"{field}: holds out no sequences")
        tokens = len(plan.silos) * evaluation.sequences * plan.message.pruning.sequence_length
        if tokens * MOST_NATS << NLL_FRACTION_BITS >= 1 << 64:
            raise PlanError(f"{field}: {tokens:,} held-out tokens of all silos are too many for a sum to be exact")
        sequences = len(plan.silos) * evaluation.sequences
        if compared(evaluation) and sequences * MOST_NATS**2 << NLL_FRACTION_BITS >= 1 << 64:
            raise PlanError(
                f"{field}: {sequences:,} held-out sequences of all silos are too many for a sum to be exact"
            )
        if not evaluation.candidates:
            raise PlanError(f"{field}: has no candidates")
        if len({candidate.name for candidate in evaluation.candidates}) != len(evaluation.candidates):
            raise PlanError(f"{field}: two candidates share a name")
        has_pruned = any(spec_of(plan, earlier).prunes for earlier in range(index))
        for candidate in evaluation.candidates:
            keep_mask = candidate.WhichOneof("keep_mask")
            is_own_possible = not (plan.pruning.cohort_floor or plan.pruning.schedule is Schedule.ITERATIVE)
            reads_text = PRUNERS[plan.pruning.pruner].reads_text
            usable = {
                "dense": candidate.dense,
                "digest": len(candidate.digest) == DIGEST_BYTES,
                "pruned": candidate.pruned and has_pruned,
                "own": candidate.own and has_pruned and is_own_possible,
                "self_calibrated": candidate.self_calibrated and has_pruned and reads_text,
            }
            if keep_mask is None or not usable[keep_mask]:
                raise PlanError(f"{field}: candidate {candidate.name!r} names no usable keep mask")

    def files(self, plan: Plan, index: int) -> frozenset[bytes]:
        """Return the digests of the keep masks from outside."""
        candidates = plan.message.rounds[index].evaluation.candidates
        return frozenset(candidate.digest for candidate in candidates if candidate.digest)

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield what is evaluated on how much text."""
        del silo
        evaluation = plan.message.rounds[index].evaluation
        yield (
            f"how well {len(evaluation.candidates)} candidate models predict {evaluation.sequences:,} further "
            f"sequences of {plan.message.pruning.sequence_length:,} tokens of this silo's text"
        )
        if any(candidate.self_calibrated for candidate in evaluation.candidates):
            yield f"{plan.pruning.pruner} prunes the model once more, on text that it writes itself"

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Count the candidates."""
        evaluations = [plan.message.rounds[index].evaluation for index in rounds]
        candidates = sum(len(evaluation.candidates) for evaluation in evaluations)
        what = f"for each of {candidates:,} candidates its negative log-likelihood on held-out text, and the tokens"
        if squared := sum(len(compared(evaluation)) for evaluation in evaluations):
            what += (
                f", and for {squared} of them the squares, added up, of how far its sequences are from the federated's"
            )
        return what


SPEC = EvaluationSpec()
