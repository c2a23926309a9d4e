"""The options of a plan. Each is declared once, as a field of PlanOptions: its default, its option on the command line,
where the plan's message has it, and what whoever approves of the plan is told. plan.yaml has the same fields.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import partial, reduce
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from crypto.errors import PlanError
from crypto.names import Allocation, ComparisonGroup, GramInputs, Pruner, ReleaseKind, Schedule
from crypto.plan import USUAL_LEAST_RATE, Plan
from crypto.privacy.noise_shares import VOTE_BITS
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern, Sparsity, spell_ratio
from crypto.releases.release_spec import release_spec
from sparsilo.v1 import plan_pb2

USUAL_RATIO: Final = Decimal("0.5")
USUAL_GROUP: Final = ComparisonGroup.LAYER


@dataclass(frozen=True)
class PlanOption:
    """One thing that a plan can ask for. Its last four attributes are those of its field in PlanOptions."""

    plan_field: str
    """Where plan_pb2.Plan has it, such as pruning.samples; empty where the plan's rounds follow from it."""
    told: Callable[[Plan], str | None]
    """What whoever approves of a plan is told of it; None where there is nothing to tell beyond plan_in_words."""
    help: str = ""
    unset: str = ""
    """What holds where the option is not given, in words."""
    flag: str = ""
    """The command line's option, where that is not the name."""
    metavar: str | None = None
    least: int | None = None
    """The smallest whole number that the command line takes."""
    choices: tuple[StrEnum, ...] = ()
    """The members of an enumeration that can be asked for; none: all."""
    empty_for: StrEnum | None = None
    """The value for which the plan leaves its field empty."""
    of_local: bool = True
    """Whether `aggregator local` has the option."""
    name: str = field(kw_only=True)
    kind: Any = field(kw_only=True)  # as above
    """The type of its value, or of each silo's: bool, int, float, str, Decimal or an enumeration."""
    by_silo: bool = field(kw_only=True)
    default: object = field(kw_only=True)

    def write(self, message: plan_pb2.Plan, value: object) -> None:
        """Set the option's field of `message`; of its roster's members, where the value is by silo.

        Raises PlanError where the field cannot hold the value.
        """
        *path, leaf = self.plan_field.split(".")
        try:
            if isinstance(value, Mapping):
                for member in message.roster:
                    if member.silo in value:
                        setattr(member, leaf, _encoded(value[member.silo]))
            elif leaf and value is not None and value != self.empty_for:
                setattr(reduce(getattr, path, message), leaf, _encoded(value))
        except ValueError:
            raise PlanError(f"plan: {self.name}: {value} is out of range") from None


def _encoded(value: object) -> object:
    return spell_ratio(value) if isinstance(value, Decimal) else value


def _told_elsewhere(_: Plan) -> None:
    """Tell nothing: plan_in_words has it in a sentence on what is computed, what leaves, who is withstood, who prunes
    how much or how long it takes.
    """


def _compared_keep_counts(plan: Plan) -> str | None:
    group = plan.message.pruning.comparison_group
    if plan.message.pruning.pattern or group == ComparisonGroup.LAYER:
        return None
    return f"keep counts are compared within each {group} of a weight matrix, not in the whole matrix"


def _forced_comparison_group(plan: Plan) -> str | None:
    if not plan.message.pruning.force_comparison_group:
        return None
    return f"that comparison group is known to ruin what {plan.message.pruning.pruner} does, and is wanted all the same"


def _scaled_weights(plan: Plan) -> str | None:
    if not plan.message.pruning.weight_scaling:
        return None
    return "each kept weight is multiplied by the share of silos that kept it"


def _quantised(plan: Plan) -> str | None:
    bits = plan.message.pruning.quantise_bits
    return f"kept weights become integers of {bits} bits, by the same statistics" if bits else None


def _gram_inputs(plan: Plan) -> str | None:
    if plan.pruning.gram_inputs is GramInputs.ALL:
        return None
    return "products are summed of the inputs of attention's weights alone, and of all other inputs squares"


def _promise(plan: Plan) -> str | None:
    """Say what a plan promises a unit of text."""
    pruning = plan.message.pruning
    if not plan.pruning.has_noise:
        return None
    return f"noise is added: epsilon {pruning.epsilon:g} at delta {pruning.delta:g} is kept for each unit of text"


def _noisy_votes(plan: Plan) -> str | None:
    """Say how large noise on keep counts is."""
    units = plan.pruning.vote_units
    return f"each silo adds noise of {2**VOTE_BITS / units:.3g} votes to each keep count" if units else None


def _smaller_cohorts(plan: Plan) -> str | None:
    floor = plan.message.pruning.cohort_floor
    if not floor:
        return None
    return f"each block is pruned by {floor} or more silos, which are drawn at random, and summed over these alone"


def _threshold(plan: Plan) -> str:
    of_cohorts = ", and of a block's silos a majority" if plan.message.pruning.cohort_floor else ""
    return f"{plan.message.threshold} of the {len(plan.message.roster)} silos are enough to open a sum{of_cohorts}"


@dataclass(frozen=True)
class PlanOptions:
    """What is asked of a run, whose silos, model and cryptography are given elsewhere. None: not given."""

    release: Annotated[
        ReleaseKind,
        partial(
            PlanOption,
            "",
            _told_elsewhere,
            "What is summed: keep masks (votes), also the weights that the pruner changed (weights), or what pruners "
            "read of the text, by which everybody prunes alike (energies, gram); or that and what the last layer of a "
            "block should write to make up for pruning (dense_target).",
            choices=tuple(kind for kind in ReleaseKind if release_spec(kind).prunes),
        ),
    ] = ReleaseKind.GRAM
    pruner: Annotated[
        Pruner | None,
        partial(
            PlanOption,
            "pruning.pruner",
            _told_elsewhere,
            "What decides which weights are zeroed, and changes others where it can.",
            unset="wanda with votes, sparsegpt with weights, otherwise admm",
        ),
    ] = None
    sparsity_ratio: Annotated[
        Decimal | None,
        partial(
            PlanOption,
            "pruning.sparsity_ratio",
            _told_elsewhere,
            "Fraction of weights set to zero, in [0, 1).",
            unset=str(USUAL_RATIO),
        ),
    ] = None
    pattern: Annotated[
        str | None,
        partial(
            PlanOption,
            "pruning.pattern",
            _told_elsewhere,
            "Instead of a ratio: of every m inputs in a row, n are kept, as in 2:4.",
            metavar="N:M",
        ),
    ] = None
    comparison_group: Annotated[
        ComparisonGroup | None,
        partial(
            PlanOption,
            "pruning.comparison_group",
            _compared_keep_counts,
            "Weights among which the aggregator keeps those with most votes; layer is one weight matrix. "
            "Silos compare in their pruner's own group, which for wanda and swaps is row.",
            unset="layer; with energies and gram, where nobody votes, the pruner's own",
        ),
    ] = None
    force_comparison_group: Annotated[
        bool,
        partial(
            PlanOption,
            "pruning.force_comparison_group",
            _forced_comparison_group,
            "Allow a group that is known to ruin what this pruner does.",
        ),
    ] = False
    schedule: Annotated[
        Schedule | None,
        partial(
            PlanOption,
            "pruning.schedule",
            _told_elsewhere,
            "iterative: a round a block, and silos go on from the globally pruned block.",
            unset="one-shot; with energies and gram iterative",
            empty_for=Schedule.ONE_SHOT,
        ),
    ] = None
    weight_scaling: Annotated[
        bool,
        partial(
            PlanOption,
            "pruning.weight_scaling",
            _scaled_weights,
            "Multiply each kept weight by the share of silos that kept it.",
        ),
    ] = False
    allocation: Annotated[
        Allocation,
        partial(
            PlanOption,
            "pruning.allocation",
            _told_elsewhere,
            "owl: blocks with more outlying weights, on all silos' text, lose fewer. "
            "alpha: blocks whose weights look better trained, by their spectra, lose fewer.",
            empty_for=Allocation.UNIFORM,
        ),
    ] = Allocation.UNIFORM
    quantise: Annotated[
        int,
        partial(
            PlanOption,
            "pruning.quantise_bits",
            _quantised,
            "With energies and gram: once pruned, weights become integers of 4 or 8 bits, by the same statistics. "
            "0: they stay.",
            metavar="BITS",
            least=0,
        ),
    ] = 0
    gram: Annotated[
        GramInputs,
        partial(
            PlanOption,
            "pruning.gram_inputs",
            _gram_inputs,
            "With gram: attention sends products of attention's inputs only, and of all others what energies sends.",
            empty_for=GramInputs.ALL,
        ),
    ] = GramInputs.ALL
    epsilon: Annotated[
        float | None,
        partial(
            PlanOption,
            "pruning.epsilon",
            _promise,
            "With energies: silos add noise, so that this differential privacy is kept for each unit of text, a person "
            "or else a record.",
            unset="no noise",
        ),
    ] = None
    delta: Annotated[
        float | None,
        partial(
            PlanOption,
            "pruning.delta",
            _told_elsewhere,
            "With noise: the probability with which its epsilon may not be kept.",
            unset="0.000001",
        ),
    ] = None
    vote_noise: Annotated[
        float | None,
        partial(
            PlanOption,
            "",
            _noisy_votes,
            "With votes: each silo adds noise of this standard deviation, in votes, to each keep count. It hides "
            "single votes, and of a whole keep mask next to nothing: the plan's epsilon says how little.",
            unset="no noise",
            metavar="VOTES",
        ),
    ] = None
    silo_sparsity_ratios: Annotated[
        Mapping[str, Decimal],
        partial(
            PlanOption,
            "roster.sparsity_ratio",
            _told_elsewhere,
            "Another ratio with which this silo prunes; the model gets --sparsity-ratio.",
            flag="--silo-sparsity-ratio",
            metavar="SILO=RATIO",
        ),
    ] = field(default_factory=dict)
    cohort_floor: Annotated[
        int,
        partial(
            PlanOption,
            "pruning.cohort_floor",
            _smaller_cohorts,
            "Layer sampling: a silo prunes only some blocks, and every block is pruned by N silos or more. "
            "0: all by all.",
            metavar="N",
            least=0,
        ),
    ] = 0
    capacities: Annotated[
        Mapping[str, int],
        partial(
            PlanOption,
            "roster.capacity",
            _told_elsewhere,
            "With layer sampling: of how many blocks this silo prunes.",
            unset="all",
            flag="--capacity",
            metavar="SILO=BLOCKS",
        ),
    ] = field(default_factory=dict)
    samples: Annotated[
        int, partial(PlanOption, "pruning.samples", _told_elsewhere, "Calibration sequences a silo.", least=1)
    ] = 128
    sequence_length: Annotated[
        int | None,
        partial(
            PlanOption,
            "pruning.sequence_length",
            _told_elsewhere,
            "Tokens a sequence.",
            unset="2048 or the model's most",
            least=2,
        ),
    ] = None
    threshold: Annotated[
        int | None,
        partial(
            PlanOption, "threshold", _threshold, "Fewest silos that can open a sum.", unset="a majority, at least 3"
        ),
    ] = None
    colluders: Annotated[
        int,
        partial(
            PlanOption,
            "colluders",
            _told_elsewhere,
            "Dishonest silos that the run must withstand, beside the aggregator.",
            of_local=False,
        ),
    ] = 0
    phase_seconds: Annotated[
        int,
        partial(
            PlanOption,
            "phase_seconds",
            _told_elsewhere,
            "A phase waits so long for a silo, and so long again after each new chunk.",
            of_local=False,
        ),
    ] = 600
    preparation_seconds: Annotated[
        int,
        partial(
            PlanOption,
            "preparation_seconds",
            _told_elsewhere,
            "The time for PLAN, in which people approve and silos prune; phase_seconds at least.",
            of_local=False,
        ),
    ] = 24 * 3600
    least_bytes_per_second: Annotated[
        int,
        partial(
            PlanOption,
            "least_bytes_per_second",
            _told_elsewhere,
            "UPLOAD and AUDIT wait no longer for a silo whose words are slower than this on average.",
            least=1,
            of_local=False,
        ),
    ] = USUAL_LEAST_RATE

    @property
    def sparsity(self) -> Sparsity:
        """What is zeroed, and in which comparison groups. Raises PlanError where the pattern is none."""
        if self.pattern is not None:
            return Sparsity(Pattern.parse(self.pattern), ComparisonGroup.ROW)
        ratio = USUAL_RATIO if self.sparsity_ratio is None else self.sparsity_ratio
        usual = PRUNERS[self.pruner_or_usual].own_group if release_spec(self.release).pools else USUAL_GROUP
        return Sparsity(ratio, self.comparison_group or usual)

    @property
    def pruner_or_usual(self) -> Pruner:
        """The pruner asked for, or else the usual one of what is summed."""
        return self.pruner or release_spec(self.release).usual_pruner


def _named(name: str, annotation: Any) -> PlanOption:  # Any, as Python's own typing has annotations
    value, option = get_args(annotation)
    by_silo, arguments = get_origin(value) is Mapping, get_args(value)
    kind = arguments[-1 if by_silo else 0] if arguments else value
    named: PlanOption = option(name=name, kind=kind, by_silo=by_silo, default=getattr(PlanOptions(), name))
    return named


PLAN_OPTIONS: Final = tuple(_named(*field) for field in get_type_hints(PlanOptions, include_extras=True).items())
"""Every option, in the order of the command line and of plan.yaml."""
