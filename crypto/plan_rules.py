"""The rules of a plan: everything that can be checked of it without knowing a silo (docs/protocol.md, section 2)."""

import re
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from math import inf, prod
from typing import Final, TypeVar

from crypto.encoding.wire import decode, encode
from crypto.errors import IdentityError, PlanError
from crypto.names import (
    BITS,
    PROTOCOL,
    Allocation,
    Backend,
    ComparisonGroup,
    GramInputs,
    Pruner,
    ReleaseKind,
    Schedule,
    Suite,
)
from crypto.plan import (
    DIGEST_BYTES,
    FEWEST_SILOS,
    MAX_PLAN_BYTES,
    MOST_SILOS,
    RUN_BYTES,
    SILO_NAME,
    Plan,
    least_threshold,
    oriented,
)
from crypto.primitives.signing import check_public_key
from crypto.privacy.clipping import MOST_CLIP
from crypto.privacy.noise_shares import MOST_VOTE_UNITS
from crypto.pruning.attention import check_attention
from crypto.pruning.pruners import PRUNERS, RUINOUS
from crypto.pruning.sparsity import Pattern, parse_ratio, spell_ratio
from crypto.releases.planned_rounds import planned_rounds, pruning_rounds
from crypto.releases.release_spec import release_spec, spec_of
from sparsilo.v1 import plan_pb2

MOST_CHUNK_WORDS: Final = 1 << 18
"""2 MiB of words, so that a chunk fits gRPC's default message limit of 4 MiB."""

MOST_CHUNKS: Final = 1 << 20
"""Of one round; a terabyte in full chunks. Without a bound a small plan could make both roles build a huge table."""

MOST_BLOCKS: Final = 1024
"""Of a model; more than any known one has."""

ALPHA: Final = re.compile(r"[1-9][0-9]{0,5}\.[0-9]{4}")
"""An exponent of a block: at least 1, as Hill estimates are, and short, as both roles calculate exactly with it."""

_Name = TypeVar("_Name", bound=StrEnum)


def decode_plan(encoded: bytes) -> Plan:
    """Return the plan whose canonical bytes these are.

    Raises MalformedMessage (they are not the canonical bytes of a plan) or PlanError (it contradicts itself), whose
    message names the field.
    """
    plan = Plan(decode(plan_pb2.Plan, encoded, MAX_PLAN_BYTES), encoded)
    _check_parties(plan)
    _check_model(plan)
    _check_pruning(plan)
    _check_exponents(plan)
    _check_quantisation(plan)
    _check_gram_inputs(plan)
    _check_privacy(plan)
    _check_layer_sampling(plan)
    _check_sizes(plan.message)
    _check_rounds(plan)
    return plan


def checked_plan(message: plan_pb2.Plan) -> Plan:
    """Return the plan of a message made here. Raises as `decode_plan`."""
    return decode_plan(encode(message))


def check_cohort(plan: Plan, index: int, cohort: Sequence[str]) -> None:
    """Raise PlanError where a round has a cohort and should not, or the other way around, or one of too few silos."""
    field = f"rounds[{index}]"
    if not plan.is_sampled(index):
        _require(not cohort, field, "is for the whole roster, not for a cohort")
        return
    is_known = len({*cohort} & {*plan.silos}) == len(cohort)
    _require(is_known and list(cohort) == sorted(cohort), field, "has an unknown or unordered cohort")
    floor = plan.pruning.cohort_floor
    _require(len(cohort) >= floor, field, f"has a cohort of {len(cohort)}, the floor is {floor}")


def _check_parties(plan: Plan) -> None:
    message, silos = plan.message, len(plan.silos)
    _require(message.protocol == PROTOCOL, "protocol", f"{message.protocol!r} is not {PROTOCOL!r}")
    _require(len(message.run) == RUN_BYTES, "run", f"must be {RUN_BYTES} bytes")
    suite = _member(Suite, message.suite, "suite")
    _member(Backend, message.backend, "backend")
    _require(
        FEWEST_SILOS <= silos <= MOST_SILOS,
        "roster",
        f"has {silos} silos; a sum hides a silo only among others, so {FEWEST_SILOS} to {MOST_SILOS} are needed",
    )
    _ascending(plan.silos, "roster")
    for member in message.roster:
        _require(bool(SILO_NAME.fullmatch(member.silo)), f"roster {member.silo!r}", "a name is 1 to 63 of a-z 0-9 -")
        _check_key(suite, member)
    signing_keys = {member.signing_key for member in message.roster}
    _require(len(signing_keys) == silos, "roster", "two silos share a signing key")
    least, fewer = (least_threshold(silos, message.colluders, honest) for honest in (plan.honest_survivors, 2))
    _require(
        least <= message.threshold <= silos,
        "threshold",
        f"{message.threshold} is out of range for {silos} silos and {message.colluders} colluders: {least} to {silos}"
        + (", or one less where the plan says two_honest_survivors" if fewer < least else ""),
    )
    _require(
        message.threshold <= message.least_survivors <= silos,
        "least_survivors",
        f"{message.least_survivors} is out of range: {message.threshold} (the threshold) to {silos}",
    )


def _check_model(plan: Plan) -> None:
    model = plan.message.model
    _ascending([tensor.name for tensor in model], "model")
    for tensor in model:
        field, size = f"model {tensor.name}", prod(tensor.shape)
        _require(len(tensor.digest) == DIGEST_BYTES, field, f"digest must be {DIGEST_BYTES} bytes")
        if tensor.prunable:
            _require(len(tensor.shape) == 2 and size > 0, field, "only a matrix can be pruned")
            _require(len(plan.silos) * size < 1 << 64, field, "is too large to count")
        else:
            is_plain = not (tensor.block or tensor.input_first)
            _require(is_plain, field, "is not prunable, yet has a block or orientation")
    _require(any(plan.prunable), "model", "has no prunable tensor")
    blocks = 1 + max(tensor.block for tensor in plan.prunable)
    _require(blocks <= MOST_BLOCKS, "model", f"has {blocks} blocks, more than {MOST_BLOCKS}")
    _require(all(plan.block_weights), "model", "has a block without a prunable tensor")
    _ascending([file.name for file in plan.message.files], "files")
    for file in plan.message.files:
        _require(len(file.digest) == DIGEST_BYTES, f"files {file.name}", f"digest must be {DIGEST_BYTES} bytes")


def _check_pruning(plan: Plan) -> None:
    _require(plan.message.WhichOneof("work") == "pruning", "work", "is none that this version knows; it knows pruning")
    pruning = plan.message.pruning
    pruner = _member(Pruner, pruning.pruner, "pruner")
    group = _member(ComparisonGroup, pruning.comparison_group, "comparison group")
    known = "", Allocation.OWL, Allocation.ALPHA
    _require(pruning.allocation in known, "allocation", f"{pruning.allocation!r} is unknown")
    _require(pruning.schedule in ("", Schedule.ITERATIVE), "schedule", f"{pruning.schedule!r} is unknown")
    own_ratios = [member.sparsity_ratio for member in plan.message.roster if member.sparsity_ratio]
    if pruning.pattern:
        canonical = str(Pattern.parse(pruning.pattern))
        _require(pruning.pattern == canonical, "pattern", f"{pruning.pattern!r} must be written {canonical!r}")
        is_all = not (pruning.sparsity_ratio or own_ratios or pruning.allocation)
        _require(is_all, "pattern", "leaves no choice of a sparsity ratio or its allocation")
        _require(group is ComparisonGroup.ROW, "comparison group", "must be row with a pattern")
        for tensor in plan.prunable:
            fits = oriented(tensor)[1] % Pattern.parse(pruning.pattern).of == 0
            _require(fits, f"model {tensor.name}", f"has inputs that {pruning.pattern} does not divide")
    else:
        for ratio in (pruning.sparsity_ratio, *own_ratios):
            canonical = spell_ratio(parse_ratio(ratio))
            _require(ratio == canonical, "sparsity ratio", f"{ratio!r} must be written {canonical!r}")
    ruin = None if pruning.pattern or _pools(plan) else RUINOUS.get((PRUNERS[pruner].own_group, group))
    if not pruning.force_comparison_group:
        _require(ruin is None, "comparison group", f"{group} does not suit {pruner}: {ruin} (arXiv 2505.13547)")
    _require(ruin is not None or not pruning.force_comparison_group, "comparison group", "needs no force")


def _check_exponents(plan: Plan) -> None:
    """Those that alpha spreads the ratio by are one a block, in the one spelling."""
    exponents = plan.message.pruning.block_alphas
    due = len(plan.block_weights) if plan.pruning.allocation is Allocation.ALPHA else 0
    _require(len(exponents) == due, "block_alphas", f"are {len(exponents)}, and must be {due}")
    for exponent in exponents:
        spelled = ALPHA.fullmatch(exponent) is not None
        _require(spelled, "block_alphas", f"{exponent!r} is not from 1 to 999999.9999 with four decimals")


def _check_quantisation(plan: Plan) -> None:
    """It needs the Gram matrix that all have, and the layout that quantised models have."""
    bits = plan.message.pruning.quantise_bits
    _require(bits in (0, *BITS), "quantise_bits", f"{bits} is none of {', '.join(map(str, BITS))}")
    if bits:
        _require(_pools(plan), "quantise_bits", "needs statistics that silos pool: release energies or gram")
        for tensor in plan.prunable:
            fits = not tensor.input_first
            _require(fits, f"model {tensor.name}", "is stored input first, which the quantised format does not have")


def _check_gram_inputs(plan: Plan) -> None:
    """Some inputs can be left out where products are summed, and some are attention's."""
    inputs = plan.message.pruning.gram_inputs
    _require(inputs in ("", GramInputs.ATTENTION), "gram_inputs", f"{inputs!r} is unknown")
    if inputs:
        kinds = {message.WhichOneof("release") for message in plan.message.rounds}
        _require(ReleaseKind.GRAM in kinds, "gram_inputs", "are of products, and no round sums them: release gram")
        check_attention(tensor.name for tensor in plan.prunable)


def _check_privacy(plan: Plan) -> None:
    """A promise comes with its noise, and every round keeps it. That the noise is enough for it, each silo computes."""
    pruning, silos = plan.message.pruning, len(plan.silos)
    epsilon, delta, clip = pruning.epsilon, pruning.delta, pruning.clip
    if not plan.pruning.has_noise:
        _require(epsilon == delta == 0, "epsilon", "is promised, and the plan has no noise")
        return
    _require(not (clip and pruning.vote_units), "vote_units", "are of keep counts, and clip of energies: choose one")
    _require(0 < epsilon < inf, "epsilon", f"{epsilon} is not above 0")
    _require(0 < delta < 1, "delta", f"{delta} is not between 0 and 1")
    _require(clip <= MOST_CLIP, "clip", f"{clip} is above {MOST_CLIP}")
    _require(pruning.vote_units <= MOST_VOTE_UNITS, "vote_units", f"{pruning.vote_units} is above {MOST_VOTE_UNITS}")
    _require(not pruning.cohort_floor, "cohort_floor", "draws few silos for a block, and noise is sized for all")
    _require(
        silos * pruning.samples * clip < 1 << 62, "clip", f"{clip} is too long for the sum of all units to be exact"
    )
    _require(not pruning.weight_scaling, "weight_scaling", "multiplies by shares of silos, and noise is on these")
    is_hidden = plan.backend is not Backend.INSECURE_PLAINTEXT
    _require(is_hidden, "backend", f"{plan.backend} shows each silo's values with no more than its own noise")
    for index in range(len(plan.message.rounds)):
        field = spec_of(plan, index).noise_field
        _require(
            bool(field and getattr(pruning, field)),
            f"rounds[{index}]",
            f"{plan.release_kind(index)} has no noise, so no epsilon is kept: release energies, or votes with "
            "vote_noise, and evaluate nothing",
        )


def _pools(plan: Plan) -> bool:
    """Tell whether everybody prunes by pooled statistics: then there are no silos' keep masks to compare."""
    kinds = {message.WhichOneof("release") for message in plan.message.rounds}
    return any(release_spec(kind).pools for kind in ReleaseKind if kind in kinds)


def _check_layer_sampling(plan: Plan) -> None:
    floor, blocks = plan.pruning.cohort_floor, len(plan.block_weights)
    capacities = [member.capacity for member in plan.message.roster]
    if not floor:
        _require(not any(capacities), "capacity", "is for layer sampling, and the plan has no cohort_floor")
        return
    least = plan.message.colluders + plan.honest_survivors
    _require(least <= floor <= len(plan.silos), "cohort_floor", f"{floor} is out of range: {least} to all silos")
    _require(all(1 <= capacity <= blocks for capacity in capacities), "capacity", f"must be 1 to {blocks} blocks")
    _require(
        sum(capacities) >= blocks * floor,
        "capacity",
        f"{sum(capacities)} blocks in all, and {blocks} blocks times a cohort_floor of {floor} are needed",
    )


def _check_sizes(message: plan_pb2.Plan) -> None:
    _require(message.pruning.samples >= 1, "samples", "must be at least 1")
    _require(message.pruning.sequence_length >= 2, "sequence length", "must be at least 2 tokens")
    _require(1 <= message.chunk_words <= MOST_CHUNK_WORDS, "chunk_words", f"must be 1 to {MOST_CHUNK_WORDS}")
    _require(message.phase_seconds >= 1, "phase_seconds", "must be at least 1")
    _require(message.preparation_seconds >= 1, "preparation_seconds", "must be at least 1")


def _check_rounds(plan: Plan) -> None:
    """Those of the planned pruning come first, if any; then what stands alone."""
    rounds = plan.message.rounds
    _require(len(rounds) >= 1, "rounds", "are 0")
    for index, message in enumerate(rounds):
        _require(message.WhichOneof("release") is not None, f"rounds[{index}]", "names no release")
    due = [(plan.release_kind(index), plan.block(index)) for index in range(pruning_rounds(plan))]
    release = due[-1][0] if due else ReleaseKind.VOTES
    _require(not due or release_spec(release).prunes, "rounds", "end in one that does not prune")
    _require(not due or due == planned_rounds(plan, release), "rounds", "are not those that this pruning has")
    _check_inputs(plan, release)
    for index in range(len(rounds)):
        spec = spec_of(plan, index)
        spec.check(plan, index)
        sections = spec.sections(plan, index, len(plan.silos))
        chunks = sum(-(-section.words // plan.message.chunk_words) for section in sections)
        _require(chunks <= MOST_CHUNKS, "chunk_words", f"is so small that rounds[{index}] has {chunks} chunks")


def _check_inputs(plan: Plan, release: ReleaseKind) -> None:
    """Only statistics of inputs need to know which tensors share one, and how large it is; and only a target, which
    tensor of each block has it.
    """
    for tensor in plan.message.model:
        described = tensor.shares_input_of or tensor.scale_exponents or tensor.output_exponents
        pools = tensor.prunable and release_spec(release).pools
        _require(pools or not described, f"model {tensor.name}", "has an input that no round is about")
    blocks = len(plan.block_weights) if release is ReleaseKind.DENSE_TARGET else 0
    last = [tensor.block for tensor in plan.prunable if tensor.output_exponents]
    _require(sorted(last) == [*range(blocks)], "output_exponents", f"are not those of one tensor in {blocks} blocks")
    others = {tensor.block for tensor in plan.prunable if not tensor.output_exponents}
    _require(len(others) >= blocks, "output_exponents", "are those of a block's only prunable tensor")


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
    _require(all(lower < higher for lower, higher in pairwise(names)), field, "names must ascend, each once")
