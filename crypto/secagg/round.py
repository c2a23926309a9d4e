"""A round: the context that everything said in it is bound to, and how few silos may be in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from crypto.encoding.layout import Layout
from crypto.errors import UnexpectedMessage
from crypto.names import AGGREGATOR
from crypto.plan import DIGEST_BYTES, Plan, least_threshold
from crypto.plan_rules import check_cohort, decode_plan
from crypto.releases.release_spec import has_input, layout_of
from sparsilo.v1 import round_pb2


def threshold(plan: Plan, cohort: int) -> int:
    """Return the fewest silos that can open a sum: the plan's, or the least that a cohort of so many can have (2.6.3).

    `cohort` is 0 where the whole roster may take part.
    """
    least = least_threshold(cohort, plan.message.colluders, plan.honest_survivors)
    return least if cohort else plan.message.threshold


def least_survivors(plan: Plan, cohort: int) -> int:
    """Return the fewest silos whose uploads a sum may be opened over: the plan's, or those of a cohort (2.6.3).

    `cohort` is how many silos it has, and 0 where the whole roster may take part.
    """
    return threshold(plan, cohort) if cohort else plan.message.least_survivors


@dataclass(frozen=True)
class Round:
    """The context that everything in a round is bound to."""

    plan: Plan
    index: int
    input_digest: bytes = b""
    """Stands for the opened rounds that this one starts from (2.2.3); empty where it starts from the dense model."""
    cohort: tuple[str, ...] = ()
    """The silos that layer sampling drew, ascending; none where the whole roster may take part."""

    @classmethod
    def of(cls, plan: bytes, index: int, input_digest: bytes, cohort: Sequence[str]) -> "Round":
        """Return the round that an offer or a transcript names.

        Raises MalformedMessage, PlanError or UnexpectedMessage.

        Whether input and cohort are what the earlier rounds gave is for the caller to check (2.2.3, 2.6).
        """
        round_ = cls(decode_plan(plan), index, input_digest, tuple(cohort))
        rounds = len(round_.plan.message.rounds)
        if index >= rounds:
            raise UnexpectedMessage(f"offers round {index} of {rounds}", party=AGGREGATOR)
        if len(input_digest) != (DIGEST_BYTES if has_input(round_.plan, index) else 0):
            raise UnexpectedMessage(
                f"offers round {index} with an input of {len(input_digest)} bytes", party=AGGREGATOR
            )
        check_cohort(round_.plan, index, round_.cohort)
        return round_

    @cached_property
    def digest(self) -> bytes:
        """32 bytes: plan, index, input and cohort (docs/protocol.md, section 2)."""
        return self.plan.round_digest(self.index, self.input_digest, self.cohort)

    @property
    def silos(self) -> tuple[str, ...]:
        """Who may take part, ascending."""
        return self.cohort or self.plan.silos

    @property
    def threshold(self) -> int:
        """Fewest silos that can open the sum."""
        return threshold(self.plan, len(self.cohort))

    @property
    def least_survivors(self) -> int:
        """Fewest silos whose uploads the sum may be opened over."""
        return least_survivors(self.plan, len(self.cohort))

    @cached_property
    def layout(self) -> Layout:
        """Sections and chunk table."""
        return layout_of(self.plan, self.index, len(self.silos))

    def transcript(self) -> round_pb2.Transcript:
        """Return what both roles fill with the answers of each phase, as far as a transcript has a field for them."""
        return round_pb2.Transcript(
            plan=self.plan.encoded, index=self.index, input=self.input_digest, cohort=self.cohort
        )
