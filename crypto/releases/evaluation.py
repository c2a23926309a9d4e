"""The `evaluation` kind: how well candidate models predict the silos' held-out sequences, added up."""

from collections.abc import Iterator, Sequence
from typing import Final

from crypto.encoding.layout import Section
from crypto.errors import PlanError
from crypto.names import ReleaseKind, Schedule
from crypto.plan import DIGEST_BYTES, Plan
from crypto.releases.release_spec import ReleaseSpec, spec_of

NLL_SECTION: Final = "negative log-likelihood"
TOKENS_SECTION: Final = "tokens"
NLL_FRACTION_BITS: Final = 24
MOST_NATS: Final = 700
"""The largest negative log-likelihood of a token: its perplexity is near the largest float, far from any model's."""


class EvaluationSpec(ReleaseSpec):
    """Lanes are two whole words a candidate: its negative log-likelihood in fixed point, and the tokens."""

    kind = ReleaseKind.EVALUATION
    says = "evaluation"
    stands_alone = True
    opens = "for every candidate the silos' negative log-likelihoods and token counts, added up"

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield the two sections."""
        del silos
        candidates = len(plan.message.rounds[index].evaluation.candidates)
        yield Section(NLL_SECTION, candidates, 64)
        yield Section(TOKENS_SECTION, candidates, 64)

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
        if not evaluation.candidates:
            raise PlanError(f"{field}: has no candidates")
        if len({candidate.name for candidate in evaluation.candidates}) != len(evaluation.candidates):
            raise PlanError(f"{field}: two candidates share a name")
        has_pruned = any(spec_of(plan, earlier).prunes for earlier in range(index))
        for candidate in evaluation.candidates:
            keep_mask = candidate.WhichOneof("keep_mask")
            is_own_possible = not (plan.pruning.cohort_floor or plan.pruning.schedule is Schedule.ITERATIVE)
            usable = {
                "dense": candidate.dense,
                "digest": len(candidate.digest) == DIGEST_BYTES,
                "pruned": candidate.pruned and has_pruned,
                "own": candidate.own and has_pruned and is_own_possible,
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

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Count the candidates."""
        candidates = sum(len(plan.message.rounds[index].evaluation.candidates) for index in rounds)
        return f"for each of {candidates:,} candidates its negative log-likelihood on held-out text, and the tokens"


SPEC = EvaluationSpec()
