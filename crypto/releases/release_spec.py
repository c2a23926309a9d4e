"""One spec a release kind: what plan, ledger, approver and report need to know of it, from the plan alone.

A kind is a member of `ReleaseKind`, a message of `plan_pb2.Round` and a module of this folder named as the kind, which
holds its `SPEC`. The silo's side of it is the module of that name in silo_agent/releases.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import ClassVar, Final

from crypto.encoding.layout import Layout, Section
from crypto.names import Pruner, ReleaseKind
from crypto.plan import Plan
from crypto.privacy.events import ExactEvent, PrivacyEvent

UNIT_SEQUENCES: Final = 8
"""The most sequences of a unit that are looked at with noise: what it contributes is bounded anyway."""


class ReleaseSpec(ABC):
    """What one release kind is. Its words for people are whole phrases, which others join to sentences."""

    kind: ClassVar[ReleaseKind]
    says: ClassVar[str]
    """What the values tell of the text. Two rounds that say the same, over the same weights, overlap (2.5.7)."""
    prunes: ClassVar[bool] = False
    """Whether the opened sums become the pruned model: then it is what a run can be asked to release."""
    usual_pruner: ClassVar[Pruner]
    """Of a kind that prunes, the pruner of a run that names none: the one it was published with, or measured best."""
    pools: ClassVar[bool] = False
    """Whether silos release statistics of their text, by whose sum everybody prunes, and not what each pruned."""
    preceded_by: ClassVar[tuple[ReleaseKind, ...]] = ()
    """The kinds of the rounds that come right before each of its rounds, over the same blocks."""
    stands_alone: ClassVar[bool] = False
    """Whether rounds of the kind need no pruning: they may end any plan, or be all of it."""

    noise_field: ClassVar[str] = ""
    """The field of plan_pb2.Pruning that says how large noise on the kind's sums is; empty where they have none."""

    opens: ClassVar[str]
    """What the aggregator learns over all survivors together."""
    not_protected: ClassVar[tuple[str, ...]] = ()
    """What masking does not protect: whole sentences."""
    seen: ClassVar[str] = "sums of it"
    """What a report says that the aggregator saw."""
    unseen: ClassVar[str] = "text"
    """What a report says that it did not see of any silo."""

    @abstractmethod
    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield the sections of one round over at most `silos` silos, whose number decides the lane widths."""

    def starts_from_earlier(self, plan: Plan, index: int) -> bool:
        """Return whether the round starts from the rounds before it, where there are any (2.2.3)."""
        del plan, index
        return True

    def check(self, plan: Plan, index: int) -> None:
        """Raise PlanError where the round contradicts itself."""
        del plan, index  # most kinds have nothing that could

    def files(self, plan: Plan, index: int) -> frozenset[bytes]:
        """Return the SHA-256 of each file that a silo fetches for the round."""
        del plan, index
        return frozenset()

    def events(self, plan: Plan, index: int) -> tuple[PrivacyEvent, ...]:
        """Return what the round tells of a unit of the text: everything, unless the kind adds noise."""
        del plan, index
        return (ExactEvent(),)

    @abstractmethod
    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield what `silo` computes for the round, in words."""

    @abstractmethod
    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Say what a silo's own numbers are, in all these rounds of the kind together."""


def release_spec(kind: ReleaseKind) -> ReleaseSpec:
    """Return the spec of a kind."""
    spec: ReleaseSpec = import_module(f"crypto.releases.{kind}").SPEC
    return spec


def spec_of(plan: Plan, index: int) -> ReleaseSpec:
    """Return the spec of what a round of `plan` sums."""
    return release_spec(plan.release_kind(index))


def events_of(plan: Plan, first: int = 0) -> list[PrivacyEvent]:
    """Return what the rounds of `plan` from `first` on tell of a unit of the text."""
    return [
        event for index in range(first, len(plan.message.rounds)) for event in spec_of(plan, index).events(plan, index)
    ]


def has_input(plan: Plan, index: int) -> bool:
    """Tell whether a round starts from the rounds before it in its plan."""
    return index > 0 and spec_of(plan, index).starts_from_earlier(plan, index)


def layout_of(plan: Plan, index: int, silos: int | None = None) -> Layout:
    """Return the sections and the chunk table of one round.

    Lane widths come from how many silos may take part (of a cohort, or the whole roster), never from the survivors.
    """
    sections = spec_of(plan, index).sections(plan, index, silos or len(plan.silos))
    return Layout(tuple(sections), plan.message.chunk_words)


def calibration_in_words(plan: Plan) -> str:
    """Say how much of a silo's text its statistics are computed on."""
    pruning = plan.message.pruning
    if pruning.clip:
        return (
            f"at most {pruning.samples:,} units of this silo's text, each a person or else a record, and at most "
            f"{UNIT_SEQUENCES} sequences of {pruning.sequence_length:,} tokens of each"
        )
    return f"{pruning.samples:,} sequences of {pruning.sequence_length:,} tokens of this silo's text"
