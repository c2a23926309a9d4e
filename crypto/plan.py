"""The plan: what every silo agrees to, checked, and hashed into every signature, seal and derived key of the run.

Layouts are derived from the plan by both roles rather than transmitted, so they cannot disagree (docs/protocol.md,
section 2).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from math import prod
from typing import Final, TypeVar

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Layout, Section
from crypto.errors import IdentityError, PlanError
from crypto.names import PROTOCOL, Backend, ComparisonGroup, Pruner, ReleaseKind, Suite
from crypto.primitives.signing import check_public_key
from crypto.secagg.wire import decode, encode
from sparsilo.v1 import plan_pb2

MAX_PLAN_BYTES: Final = 1 << 22
FEWEST_SILOS: Final = 3
MOST_SILOS: Final = 200
RUN_BYTES: Final = 16
DIGEST_BYTES: Final = 32
MOST_CHUNK_WORDS: Final = 1 << 18
"""2 MiB of words, so that a chunk fits gRPC's default message limit of 4 MiB."""

MOST_CHUNKS: Final = 1 << 20
"""Of one round; a terabyte in full chunks. Without a bound a small plan could make both roles build a huge table."""

MOST_ROUNDS: Final = 256
"""Of one plan; more than the blocks of any known model."""

MOST_DECIMALS: Final = 27
"""Of a sparsity ratio: within Decimal's default precision, so that no arithmetic on it rounds."""

SILO_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): a silo's name is also its certificate's subject."""


def least_threshold(silos: int, colluders: int) -> int:
    """The smallest t with 2t > silos + colluders: two sets of t share an honest silo (Bonawitz et al. 2017, sec. 6)."""
    return (silos + colluders) // 2 + 1


def parse_ratio(text: str) -> Decimal:
    """A sparsity ratio in [0, 1) as an exact decimal, such as `0.7`; anything else is a PlanError."""
    try:
        ratio = Decimal(text)
    except InvalidOperation:
        raise PlanError(
            f"sparsity ratio: {text!r} is not a decimal number", hint="give one in [0, 1), such as 0.5"
        ) from None
    if not (ratio.is_finite() and 0 <= ratio < 1):
        raise PlanError(f"sparsity ratio: {text!r} is outside [0, 1)", hint="0.5 sets half of the weights to zero")
    if ratio != round(ratio, MOST_DECIMALS):
        raise PlanError(f"sparsity ratio: has more than {MOST_DECIMALS} decimals")
    return ratio


def spell_ratio(ratio: Decimal) -> str:
    """The one spelling of a parsed ratio in a plan: "0.70" and "0.7" would otherwise be two plans for the same work."""
    return format(ratio.normalize().copy_abs(), "f")


def group_shape(shape: Sequence[int], group: ComparisonGroup) -> tuple[int, int]:
    """How many comparison groups a [d_out, d_in] weight has, and how many weights each."""
    rows, columns = shape
    match group:
        case ComparisonGroup.LAYER:
            return 1, rows * columns
        case ComparisonGroup.ROW:
            return rows, columns
        case ComparisonGroup.COLUMN:
            return columns, rows


def votes_section(tensor: str) -> str:
    """Name of the section that holds a tensor's keep mask."""
    return f"votes {tensor}"


def nonzero_section(tensor: str) -> str:
    """Name of the section that holds a tensor's nonzero counts, one a comparison group."""
    return f"nonzero counts {tensor}"


NLL_SECTION: Final = "negative log-likelihood"
TOKENS_SECTION: Final = "tokens"
NLL_FRACTION_BITS: Final = 24


@dataclass(frozen=True)
class Plan:
    """A checked plan. Construct with `Plan.decode` (bytes from elsewhere) or `Plan.of` (a message made here)."""

    message: plan_pb2.Plan
    encoded: bytes

    @classmethod
    def decode(cls, encoded: bytes) -> "Plan":
        """Raises MalformedMessage (not the canonical bytes of a plan) or PlanError (it contradicts itself)."""
        plan = cls(decode(plan_pb2.Plan, encoded, MAX_PLAN_BYTES), encoded)
        plan._check()
        return plan

    @classmethod
    def of(cls, message: plan_pb2.Plan) -> "Plan":
        """As `decode`, from a message."""
        return cls.decode(encode(message))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical encoding, with its own domain tag."""
        return sha256(b"sparsilo/1 plan" + self.encoded).digest()

    @cached_property
    def silos(self) -> tuple[str, ...]:
        """Names in roster order; a silo's index here plus one is its Shamir point."""
        return tuple(member.silo for member in self.message.roster)

    def signing_key(self, silo: str) -> bytes:
        """The roster's public key of a silo of this plan."""
        return self.message.roster[self.silos.index(silo)].signing_key

    def check_roster(self, pinned: Mapping[str, bytes]) -> None:
        """Names and keys must be exactly the pinned ones. Raises IdentityError naming who differs."""
        offered = {member.silo: member.signing_key for member in self.message.roster}
        changed = sorted({silo for silo, _ in {*offered.items()} ^ {*pinned.items()}})
        if changed:
            raise IdentityError(f"the plan's roster differs from the pinned one at {', '.join(changed)}")

    def point(self, silo: str) -> int:
        """A silo's Shamir evaluation point, nonzero."""
        return self.silos.index(silo) + 1

    @property
    def suite(self) -> Suite:
        """The cryptographic algorithms."""
        return Suite(self.message.suite)

    @property
    def backend(self) -> Backend:
        """How words are hidden."""
        return Backend(self.message.backend)

    @property
    def sparsity_ratio(self) -> Decimal:
        """Fraction of every comparison group that the opened keep mask sets to zero."""
        return parse_ratio(self.message.pruning.sparsity_ratio)

    @property
    def comparison_group(self) -> ComparisonGroup:
        """The groups of mask expansion."""
        return ComparisonGroup(self.message.pruning.comparison_group)

    @property
    def prunable(self) -> Iterator[plan_pb2.Tensor]:
        """The tensors that the run prunes, in the plan's order."""
        return (tensor for tensor in self.message.model if tensor.prunable)

    def release_kind(self, round_index: int) -> ReleaseKind:
        """What the round sums."""
        return ReleaseKind(self.message.rounds[round_index].WhichOneof("release") or "")

    def round_digest(self, round_index: int, input_digest: bytes) -> bytes:
        """What all signatures, seals and keys of one round are bound to: plan, index and what the round starts from."""
        return sha256(b"sparsilo/1 round" + self.digest + round_index.to_bytes(4, "little") + input_digest).digest()

    def question(self, round_index: int, input_digest: bytes) -> bytes:
        """32 bytes that two rounds share when a silo's answers are the same (docs/protocol.md, section 2.5).

        Left out is what does not change a silo's values: who takes part, how words travel, in which groups keep counts
        are compared afterwards, and what an evaluation's candidates are called or in which order they stand.
        """
        asked, pruning = plan_pb2.Plan(model=self.message.model), self.message.pruning
        asked.pruning.samples, asked.pruning.sequence_length = pruning.samples, pruning.sequence_length
        match self.release_kind(round_index):
            case ReleaseKind.VOTES:
                asked.pruning.pruner, asked.pruning.sparsity_ratio = pruning.pruner, pruning.sparsity_ratio
                asked.rounds.add().votes.SetInParent()
            case ReleaseKind.EVALUATION:
                evaluation = self.message.rounds[round_index].evaluation
                same = asked.rounds.add().evaluation
                same.sequences = evaluation.sequences
                for digest in sorted({candidate.digest for candidate in evaluation.candidates}):  # none: dense
                    same.candidates.add(digest=digest)
        return sha256(b"sparsilo/1 question" + sha256(encode(asked)).digest() + input_digest).digest()

    def layout(self, round_index: int) -> Layout:
        """Sections and chunk table of one round. Lane widths come from the whole roster, never from the survivors."""
        return Layout(tuple(self._sections(round_index)), self.message.chunk_words)

    def _sections(self, round_index: int) -> Iterator[Section]:
        silos = len(self.silos)
        match self.release_kind(round_index):
            case ReleaseKind.VOTES:
                for tensor in self.prunable:
                    groups, size = group_shape(tensor.shape, self.comparison_group)
                    yield Section(votes_section(tensor.name), groups * size, lane_width(silos))
                    yield Section(nonzero_section(tensor.name), groups, lane_width(silos * size))
            case ReleaseKind.EVALUATION:
                candidates = len(self.message.rounds[round_index].evaluation.candidates)
                yield Section(NLL_SECTION, candidates, 64)
                yield Section(TOKENS_SECTION, candidates, 64)

    def _check(self) -> None:
        """Every rule that needs nothing but the plan itself; the message names the field."""
        plan = self.message
        _require(plan.protocol == PROTOCOL, "protocol", f"{plan.protocol!r} is not {PROTOCOL!r}")
        _require(len(plan.run) == RUN_BYTES, "run", f"must be {RUN_BYTES} bytes")
        _member(Suite, plan.suite, "suite")
        _member(Backend, plan.backend, "backend")
        self._check_cohort()
        _ascending([tensor.name for tensor in plan.model], "model")
        for tensor in plan.model:
            _require(len(tensor.digest) == DIGEST_BYTES, f"model {tensor.name}", f"digest must be {DIGEST_BYTES} bytes")
            usable = len(tensor.shape) == 2 and prod(tensor.shape) > 0
            _require(not tensor.prunable or usable, f"model {tensor.name}", "only a matrix can be pruned")
            countable = len(self.silos) * prod(tensor.shape) < 1 << 64
            _require(not tensor.prunable or countable, f"model {tensor.name}", "is too large to count")
        _require(any(self.prunable), "model", "has no prunable tensor")
        _member(Pruner, plan.pruning.pruner, "pruner")
        self._check_ratio(plan.pruning.sparsity_ratio)
        group = _member(ComparisonGroup, plan.pruning.comparison_group, "comparison group")
        _require(
            group is not ComparisonGroup.COLUMN,
            "comparison group",
            "column is ruinous with wanda, which keeps few weights of quiet columns (FedPrLLM, arXiv 2505.13547)",
        )
        _require(plan.pruning.samples >= 1, "samples", "must be at least 1")
        _require(plan.pruning.sequence_length >= 2, "sequence length", "must be at least 2 tokens")
        _require(1 <= plan.chunk_words <= MOST_CHUNK_WORDS, "chunk_words", f"must be 1 to {MOST_CHUNK_WORDS}")
        _require(plan.phase_seconds >= 1, "phase_seconds", "must be at least 1")
        _require(plan.preparation_seconds >= 1, "preparation_seconds", "must be at least 1")
        self._check_rounds()
        for index in {self.release_kind(index): index for index in range(len(plan.rounds))}.values():
            chunks = sum(-(-section.words // plan.chunk_words) for section in self._sections(index))
            _require(chunks <= MOST_CHUNKS, "chunk_words", f"is so small that rounds[{index}] has {chunks} chunks")

    def _check_cohort(self) -> None:
        plan, silos = self.message, len(self.silos)
        _require(
            FEWEST_SILOS <= silos <= MOST_SILOS,
            "roster",
            f"has {silos} silos; a sum hides a silo only among others, so {FEWEST_SILOS} to {MOST_SILOS} are needed",
        )
        _ascending(self.silos, "roster")
        for member in plan.roster:
            _require(
                bool(SILO_NAME.fullmatch(member.silo)), f"roster {member.silo!r}", "a name is 1 to 63 of a-z 0-9 -"
            )
            _check_key(self.suite, member)
        _require(
            len({member.signing_key for member in plan.roster}) == silos, "roster", "two silos share a signing key"
        )
        least = least_threshold(silos, plan.colluders)
        _require(
            least <= plan.threshold <= silos,
            "threshold",
            f"{plan.threshold} is out of range for {silos} silos and {plan.colluders} colluders: {least} to {silos}",
        )
        _require(
            plan.threshold <= plan.least_survivors <= silos,
            "least_survivors",
            f"{plan.least_survivors} is out of range: {plan.threshold} (the threshold) to {silos}",
        )
        honest = 2 if plan.two_honest_survivors else 3
        _require(
            plan.least_survivors - plan.colluders >= honest,
            "least_survivors",
            f"must exceed the colluders by at least {honest}"
            + ("" if plan.two_honest_survivors else ", or by 2 where the plan says two_honest_survivors"),
        )

    @staticmethod
    def _check_ratio(text: str) -> None:
        canonical = spell_ratio(parse_ratio(text))
        _require(text == canonical, "sparsity ratio", f"{text!r} must be written {canonical!r}")

    def _check_rounds(self) -> None:
        rounds = len(self.message.rounds)
        _require(1 <= rounds <= MOST_ROUNDS, "rounds", f"are {rounds}; 1 to {MOST_ROUNDS} are allowed")
        for index, spec in enumerate(self.message.rounds):
            field = f"rounds[{index}]"
            release = spec.WhichOneof("release")
            _require(release is not None, field, "names no release")
            if release == ReleaseKind.VOTES:
                continue
            _require(spec.evaluation.sequences >= 1, field, "holds out no sequences")
            candidates = spec.evaluation.candidates
            _require(len(candidates) >= 1, field, "has no candidates")
            _require(len({c.name for c in candidates}) == len(candidates), field, "two candidates share a name")
            for candidate in candidates:
                kind = candidate.WhichOneof("keep_mask")
                valid = {
                    "dense": candidate.dense,
                    "digest": len(candidate.digest) == DIGEST_BYTES,
                }
                _require(
                    kind is not None and valid[kind], field, f"candidate {candidate.name!r} names no usable keep mask"
                )


_Name = TypeVar("_Name", bound=StrEnum)


def _check_key(suite: Suite, member: plan_pb2.Member) -> None:
    try:
        check_public_key(suite, member.signing_key)
    except IdentityError as error:
        raise PlanError(f"plan: roster {member.silo}: {error.message}") from None


def _require(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise PlanError(f"plan: {field}: {problem}")


def _member(kind: type[_Name], value: str, field: str) -> _Name:
    try:
        return kind(value)
    except ValueError:
        raise PlanError(f"plan: {field}: {value!r} is unknown", hint=f"known: {', '.join(kind)}") from None


def _ascending(names: Sequence[str], field: str) -> None:
    _require(all(a < b for a, b in pairwise(names)), field, "names must ascend, each once")
