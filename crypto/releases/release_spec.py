"""One spec a release kind: what plan, ledger, approver and report need to know of it, from the plan alone.

A kind is a member of `ReleaseKind`, a message of `plan_pb2.Round` and a module of this folder named as the kind, which
holds its `SPEC`. The silo's side of it is the module of that name in silo_agent/releases.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib import import_module
from typing import ClassVar

from crypto.encoding.layout import Layout, Section
from crypto.encoding.wire import encode
from crypto.names import ReleaseKind
from crypto.plan import Plan
from sparsilo.v1 import plan_pb2


class ReleaseSpec(ABC):
    """What one release kind is. Its words for people are whole phrases, which others join to sentences."""

    kind: ClassVar[ReleaseKind]
    says: ClassVar[str]
    """What the values tell of the text. Two rounds that say the same, over the same weights, overlap (2.5.5)."""
    prunes: ClassVar[bool] = False
    """Whether the opened sums become the pruned model: then it is what a run can be asked to release."""
    preceded_by: ClassVar[tuple[ReleaseKind, ...]] = ()
    """The kinds of the rounds that come right before each of its rounds, over the same blocks."""
    starts_from_earlier: ClassVar[bool] = True
    """Whether such a round starts from the rounds before it, where there are any (2.2.3)."""
    stands_alone: ClassVar[bool] = False
    """Whether rounds of the kind need no pruning: they may end any plan, or be all of it."""

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

    @abstractmethod
    def ask(self, plan: Plan, index: int, asked: plan_pb2.Plan) -> None:
        """Put into `asked` all that determines a silo's values, and nothing else (2.5.2).

        Model, samples and sequence length are there already.
        """

    def check(self, plan: Plan, index: int) -> None:
        """Raise PlanError where the round contradicts itself."""
        del plan, index  # most kinds have nothing that could

    def files(self, plan: Plan, index: int) -> frozenset[bytes]:
        """Return the SHA-256 of each file that a silo fetches for the round."""
        del plan, index
        return frozenset()

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


def has_input(plan: Plan, index: int) -> bool:
    """Tell whether a round starts from the rounds before it in its plan."""
    return index > 0 and spec_of(plan, index).starts_from_earlier


def layout_of(plan: Plan, index: int, silos: int | None = None) -> Layout:
    """Return the sections and the chunk table of one round.

    Lane widths come from how many silos may take part (of a cohort, or the whole roster), never from the survivors.
    """
    sections = spec_of(plan, index).sections(plan, index, silos or len(plan.silos))
    return Layout(tuple(sections), plan.message.chunk_words)


def question_of(plan: Plan, index: int, input_digest: bytes) -> bytes:
    """Return 32 bytes that two rounds share when a silo's answers are the same (docs/protocol.md, section 2.5).

    Left out is what does not change a silo's values: who takes part, how words travel, in which groups keep counts are
    compared afterwards, and what an evaluation's candidates are called or in which order they stand.
    """
    asked, pruning = plan_pb2.Plan(model=plan.message.model), plan.message.pruning
    asked.pruning.samples, asked.pruning.sequence_length = pruning.samples, pruning.sequence_length
    spec_of(plan, index).ask(plan, index, asked)
    return sha256(b"sparsilo/1 question" + sha256(encode(asked)).digest() + input_digest).digest()


def calibration_in_words(plan: Plan) -> str:
    """Say how much of a silo's text its statistics are computed on."""
    pruning = plan.message.pruning
    return f"{pruning.samples:,} sequences of {pruning.sequence_length:,} tokens of this silo's text"
