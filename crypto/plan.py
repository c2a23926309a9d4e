"""The plan: what every silo agrees to, checked, and hashed into every signature, seal and derived key of the run.

Layouts are derived from the plan by both roles rather than transmitted, so they cannot disagree (docs/protocol.md,
section 2).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from math import prod
from typing import Final, TypeVar

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Layout, Section
from crypto.encoding.wire import decode, encode
from crypto.errors import IdentityError, PlanError
from crypto.names import PROTOCOL, Allocation, Backend, ComparisonGroup, Pruner, ReleaseKind, Schedule, Suite
from crypto.primitives.signing import check_public_key
from crypto.pruning.sparsity import Pattern, Sparsity, group_shape, parse_ratio, spell_ratio
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

MOST_BLOCKS: Final = 1024
"""Of a model; more than any known one has."""

OWN_GROUPS: Final = {
    Pruner.MAGNITUDE: ComparisonGroup.LAYER,
    Pruner.WANDA: ComparisonGroup.ROW,
    Pruner.RIA: ComparisonGroup.LAYER,  # as its code compares unless told otherwise
    Pruner.SPARSEGPT: ComparisonGroup.LAYER,  # within each block of 128 columns
}
"""The group in which each pruner's authors compare scores, and every silo does."""

RUINOUS: Final = {
    (ComparisonGroup.ROW, ComparisonGroup.COLUMN): "silos that compare in rows keep few weights of quiet columns, and "
    "an even share of every column deletes those of the strong ones: perplexity in the thousands",
    (ComparisonGroup.LAYER, ComparisonGroup.ROW): "silos that compare in the whole layer keep few weights of quiet "
    "rows: perplexity four times as high",
    (ComparisonGroup.LAYER, ComparisonGroup.COLUMN): "silos that compare in the whole layer keep few weights of quiet "
    "columns: perplexity in the thousands",
}
"""Silos' and aggregator's comparison groups that do not go together (FedPrLLM, arXiv 2505.13547, section 4)."""

UPDATING: Final = frozenset({Pruner.SPARSEGPT})
"""Pruners that change the weights which they keep."""

SILO_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): a silo's name is also its certificate's subject."""


def least_threshold(silos: int, colluders: int) -> int:
    """The smallest t with 2t > silos + colluders: two sets of t share an honest silo (Bonawitz et al. 2017, sec. 6)."""
    return (silos + colluders) // 2 + 1


def votes_section(tensor: str) -> str:
    """Name of the section that holds a tensor's keep mask."""
    return f"votes {tensor}"


def nonzero_section(tensor: str) -> str:
    """Name of the section that holds a tensor's nonzero counts, one a comparison group."""
    return f"nonzero counts {tensor}"


def deltas_section(tensor: str) -> str:
    """Name of the section that holds by how much a tensor's kept weights differ from the dense ones."""
    return f"deltas {tensor}"


def scale_section(tensor: str) -> str:
    """Name of the section that holds how large a tensor's differences are."""
    return f"scale {tensor}"


DELTA_BITS: Final = 16
"""A difference is a multiple of 2^(e - 16), where 2^e is no less than any silo's largest difference of the tensor."""

EXPONENTS: Final = range(-96, 32)
"""What e can be; one lane of a scale section each."""

OUTLIERS_SECTION: Final = "outliers"
COIN_SECTION: Final = "coin"
COIN_WORDS: Final = 4
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
    def honest_survivors(self) -> int:
        """Survivors beyond the colluders that every sum of the plan is over, at least."""
        return 2 if self.message.two_honest_survivors else 3

    @property
    def pruner(self) -> Pruner:
        """How silos score weights."""
        return Pruner(self.message.pruning.pruner)

    @property
    def comparison_group(self) -> ComparisonGroup:
        """The groups of mask expansion."""
        return ComparisonGroup(self.message.pruning.comparison_group)

    @property
    def sparsity(self) -> Sparsity:
        """What mask expansion zeroes, where all blocks get the same share."""
        return Sparsity(self._target(self.message.pruning.sparsity_ratio), self.comparison_group)

    def silo_sparsity(self, silo: str) -> Sparsity:
        """What a silo's own keep masks zero: its own ratio or the plan's, in its pruner's own groups."""
        member = self.message.roster[self.silos.index(silo)]
        own = member.sparsity_ratio or self.message.pruning.sparsity_ratio
        return Sparsity(self._target(own), OWN_GROUPS[self.pruner])

    def _target(self, ratio: str) -> Decimal | Pattern:
        pattern = self.message.pruning.pattern
        return Pattern.parse(pattern) if pattern else parse_ratio(ratio)

    @property
    def allocation(self) -> Allocation:
        """How the ratio is spread over the blocks."""
        return Allocation(self.message.pruning.allocation or Allocation.UNIFORM)

    @property
    def schedule(self) -> Schedule:
        """How often silos and aggregator meet."""
        return Schedule(self.message.pruning.schedule or Schedule.ONE_SHOT)

    @property
    def capacities(self) -> dict[str, int]:
        """With layer sampling, of how many blocks each silo prunes; else empty."""
        return {member.silo: member.capacity for member in self.message.roster} if self.cohort_floor else {}

    @property
    def cohort_floor(self) -> int:
        """Fewest silos that layer sampling draws for a block; 0 without it."""
        return self.message.pruning.cohort_floor

    @property
    def prunable(self) -> Iterator[plan_pb2.Tensor]:
        """The tensors that the run prunes, in the plan's order."""
        return (tensor for tensor in self.message.model if tensor.prunable)

    @cached_property
    def block_weights(self) -> tuple[int, ...]:
        """Prunable weights of each block."""
        weights = [0] * (1 + max(tensor.block for tensor in self.prunable))
        for tensor in self.prunable:
            weights[tensor.block] += prod(tensor.shape)
        return tuple(weights)

    def release_kind(self, round_index: int) -> ReleaseKind:
        """What the round sums."""
        return ReleaseKind(self.message.rounds[round_index].WhichOneof("release") or "")

    def block(self, round_index: int) -> int | None:
        """The block that the round is about; None: all of them."""
        spec = self.message.rounds[round_index]
        return spec.block if spec.HasField("block") else None

    def tensors(self, round_index: int) -> Iterator[plan_pb2.Tensor]:
        """The prunable tensors that the round is about, in the plan's order."""
        block = self.block(round_index)
        return (tensor for tensor in self.prunable if block is None or tensor.block == block)

    def round_digest(self, round_index: int, input_digest: bytes, cohort: Sequence[str] = ()) -> bytes:
        """What all signatures, seals and keys of one round are bound to: plan, index, what it starts from, and who."""
        drawn = bytes(silo in cohort for silo in self.silos) if cohort else b""
        where = self.digest + round_index.to_bytes(4, "little")
        return sha256(b"sparsilo/1 round" + where + input_digest + drawn).digest()

    def has_input(self, round_index: int) -> bool:
        """Whether the round starts from the rounds before it; an evaluation names what it starts from itself."""
        return round_index > 0 and self.release_kind(round_index) is not ReleaseKind.EVALUATION

    def is_sampled(self, round_index: int) -> bool:
        """Whether a cohort of the roster, drawn by the silos' joint coin, takes part in the round."""
        return bool(self.cohort_floor) and self.block(round_index) is not None

    def check_cohort(self, round_index: int, cohort: Sequence[str]) -> None:
        """Raises PlanError where the round has a cohort and should not, or the other way around, or too few."""
        if not self.is_sampled(round_index):
            _require(not cohort, f"rounds[{round_index}]", "is for the whole roster, not for a cohort")
            return
        known = len({*cohort} & {*self.silos}) == len(cohort)
        _require(
            known and list(cohort) == sorted(cohort), f"rounds[{round_index}]", "has an unknown or unordered cohort"
        )
        floor = self.cohort_floor
        _require(len(cohort) >= floor, f"rounds[{round_index}]", f"has a cohort of {len(cohort)}, the floor is {floor}")

    def question(self, round_index: int, input_digest: bytes) -> bytes:
        """32 bytes that two rounds share when a silo's answers are the same (docs/protocol.md, section 2.5).

        Left out is what does not change a silo's values: who takes part, how words travel, in which groups keep counts
        are compared afterwards, and what an evaluation's candidates are called or in which order they stand.
        """
        asked, pruning = plan_pb2.Plan(model=self.message.model), self.message.pruning
        asked.pruning.samples, asked.pruning.sequence_length = pruning.samples, pruning.sequence_length
        spec, same = self.message.rounds[round_index], asked.rounds.add()
        match self.release_kind(round_index):
            case ReleaseKind.VOTES | ReleaseKind.WEIGHTS | ReleaseKind.SCALES | ReleaseKind.SAMPLING:
                for field in ("pruner", "sparsity_ratio", "pattern", "allocation", "schedule"):
                    setattr(asked.pruning, field, getattr(pruning, field))
                same.CopyFrom(spec)
            case ReleaseKind.OUTLIERS:
                same.CopyFrom(spec)
            case ReleaseKind.EVALUATION:
                same.evaluation.sequences = spec.evaluation.sequences
                for digest in sorted({candidate.digest for candidate in spec.evaluation.candidates}):  # none: dense
                    same.evaluation.candidates.add(digest=digest)
        return sha256(b"sparsilo/1 question" + sha256(encode(asked)).digest() + input_digest).digest()

    def layout(self, round_index: int, silos: int | None = None) -> Layout:
        """Sections and chunk table of one round. Lane widths come from how many silos may take part (of a cohort, or
        the whole roster), never from the survivors.
        """
        return Layout(tuple(self._sections(round_index, silos or len(self.silos))), self.message.chunk_words)

    def _sections(self, round_index: int, silos: int) -> Iterator[Section]:
        kind = self.release_kind(round_index)
        match kind:
            case ReleaseKind.VOTES | ReleaseKind.WEIGHTS:
                for tensor in self.tensors(round_index):
                    groups, size = group_shape(oriented(tensor), self.comparison_group)
                    yield Section(votes_section(tensor.name), groups * size, lane_width(silos))
                    yield Section(nonzero_section(tensor.name), groups, lane_width(silos * size))
                    if kind is ReleaseKind.WEIGHTS:
                        width = lane_width(silos << DELTA_BITS + 1)
                        yield Section(deltas_section(tensor.name), groups * size, width)
            case ReleaseKind.SCALES:
                for tensor in self.tensors(round_index):
                    yield Section(scale_section(tensor.name), len(EXPONENTS), lane_width(silos))
            case ReleaseKind.OUTLIERS:
                yield Section(OUTLIERS_SECTION, len(self.block_weights), lane_width(silos * max(self.block_weights)))
            case ReleaseKind.SAMPLING:
                yield Section(COIN_SECTION, COIN_WORDS, 64)
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
            plain = not (tensor.block or tensor.input_first)
            _require(
                tensor.prunable or plain, f"model {tensor.name}", "is not prunable, yet has a block or orientation"
            )
        _require(any(self.prunable), "model", "has no prunable tensor")
        blocks = 1 + max(tensor.block for tensor in self.prunable)
        _require(blocks <= MOST_BLOCKS, "model", f"has {blocks} blocks, more than {MOST_BLOCKS}")
        _require(all(self.block_weights), "model", "has a block without a prunable tensor")
        self._check_pruning()
        _require(plan.pruning.samples >= 1, "samples", "must be at least 1")
        _require(plan.pruning.sequence_length >= 2, "sequence length", "must be at least 2 tokens")
        _require(1 <= plan.chunk_words <= MOST_CHUNK_WORDS, "chunk_words", f"must be 1 to {MOST_CHUNK_WORDS}")
        _require(plan.phase_seconds >= 1, "phase_seconds", "must be at least 1")
        _require(plan.preparation_seconds >= 1, "preparation_seconds", "must be at least 1")
        self._check_rounds()
        for index in range(len(plan.rounds)):
            chunks = sum(-(-section.words // plan.chunk_words) for section in self._sections(index, len(self.silos)))
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
        _require(
            plan.least_survivors - plan.colluders >= self.honest_survivors,
            "least_survivors",
            f"must exceed the colluders by at least {self.honest_survivors}"
            + ("" if plan.two_honest_survivors else ", or by 2 where the plan says two_honest_survivors"),
        )

    def _check_pruning(self) -> None:
        pruning, floor = self.message.pruning, self.cohort_floor
        pruner = _member(Pruner, pruning.pruner, "pruner")
        group = _member(ComparisonGroup, pruning.comparison_group, "comparison group")
        _require(pruning.allocation in ("", Allocation.OWL), "allocation", f"{pruning.allocation!r} is unknown")
        _require(pruning.schedule in ("", Schedule.ITERATIVE), "schedule", f"{pruning.schedule!r} is unknown")
        own_ratios = [member.sparsity_ratio for member in self.message.roster if member.sparsity_ratio]
        if pruning.pattern:
            canonical = str(Pattern.parse(pruning.pattern))
            _require(pruning.pattern == canonical, "pattern", f"{pruning.pattern!r} must be written {canonical!r}")
            plain = not (pruning.sparsity_ratio or own_ratios or pruning.allocation)
            _require(plain, "pattern", "leaves no choice of a sparsity ratio or its allocation")
            _require(group is ComparisonGroup.ROW, "comparison group", "must be row with a pattern")
            for tensor in self.prunable:
                fits = oriented(tensor)[1] % Pattern.parse(pruning.pattern).of == 0
                _require(fits, f"model {tensor.name}", f"has inputs that {pruning.pattern} does not divide")
        else:
            for ratio in (pruning.sparsity_ratio, *own_ratios):
                canonical = spell_ratio(parse_ratio(ratio))
                _require(ratio == canonical, "sparsity ratio", f"{ratio!r} must be written {canonical!r}")
        ruin = None if pruning.pattern else RUINOUS.get((OWN_GROUPS[pruner], group))
        if not pruning.force_comparison_group:
            _require(ruin is None, "comparison group", f"{group} does not suit {pruner}: {ruin} (arXiv 2505.13547)")
        _require(ruin is not None or not pruning.force_comparison_group, "comparison group", "needs no force")
        blocks, capacities = len(self.block_weights), [member.capacity for member in self.message.roster]
        if not floor:
            _require(not any(capacities), "capacity", "is for layer sampling, and the plan has no cohort_floor")
            return
        least = self.message.colluders + self.honest_survivors
        _require(least <= floor <= len(self.silos), "cohort_floor", f"{floor} is out of range: {least} to all silos")
        _require(all(1 <= capacity <= blocks for capacity in capacities), "capacity", f"must be 1 to {blocks} blocks")
        _require(
            sum(capacities) >= blocks * floor,
            "capacity",
            f"{sum(capacities)} blocks in all, and {blocks} blocks times a cohort_floor of {floor} are needed",
        )

    def _check_rounds(self) -> None:
        rounds = self.message.rounds
        _require(len(rounds) >= 1, "rounds", "are 0")
        kinds: list[tuple[ReleaseKind, int | None]] = []
        for index, spec in enumerate(rounds):
            _require(spec.WhichOneof("release") is not None, f"rounds[{index}]", "names no release")
            kinds.append((self.release_kind(index), self.block(index)))
            if self.release_kind(index) is ReleaseKind.EVALUATION:
                self._check_evaluation(f"rounds[{index}]", spec)
        while kinds and kinds[-1] == (ReleaseKind.EVALUATION, None):
            kinds.pop()
        release = ReleaseKind.WEIGHTS if any(kind is ReleaseKind.WEIGHTS for kind, _ in kinds) else ReleaseKind.VOTES
        _require(not kinds or kinds == self.rounds_of(release), "rounds", "are not those that this pruning has")
        _require(
            release is ReleaseKind.VOTES or self.pruner in UPDATING,
            "rounds",
            f"sum weights, and {self.pruner} leaves kept weights as they are: their average is the dense weight. Votes "
            "are enough",
        )

    def rounds_of(self, release: ReleaseKind) -> list[tuple[ReleaseKind, int | None]]:
        """The rounds, each with the block that it is about, in which the planned pruning releases votes or weights."""
        rounds: list[tuple[ReleaseKind, int | None]] = []
        if self.cohort_floor:
            rounds.append((ReleaseKind.SAMPLING, None))
        if self.allocation is Allocation.OWL:
            rounds.append((ReleaseKind.OUTLIERS, None))
        by_block = self.cohort_floor or self.schedule is Schedule.ITERATIVE
        scopes: Iterable[int | None] = range(len(self.block_weights)) if by_block else (None,)
        for block in scopes:
            rounds += [(ReleaseKind.SCALES, block)] if release is ReleaseKind.WEIGHTS else []
            rounds.append((release, block))
        return rounds

    @staticmethod
    def _check_evaluation(field: str, spec: plan_pb2.Round) -> None:
        _require(spec.evaluation.sequences >= 1, field, "holds out no sequences")
        candidates = spec.evaluation.candidates
        _require(len(candidates) >= 1, field, "has no candidates")
        _require(len({c.name for c in candidates}) == len(candidates), field, "two candidates share a name")
        for candidate in candidates:
            kind = candidate.WhichOneof("keep_mask")
            valid = {"dense": candidate.dense, "digest": len(candidate.digest) == DIGEST_BYTES}
            _require(kind is not None and valid[kind], field, f"candidate {candidate.name!r} names no usable keep mask")


def oriented(tensor: plan_pb2.Tensor) -> tuple[int, int]:
    """(d_out, d_in) of a prunable tensor, whichever comes first where it is stored."""
    first, second = tensor.shape
    return (second, first) if tensor.input_first else (first, second)


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
