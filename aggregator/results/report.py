"""What a run came to, as a value: `report.json` is written from it, and the page and the tables are drawn from it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final

from aggregator.results.gain import Gain
from aggregator.rounds.closed_round import ClosedRound
from aggregator.rounds.traffic import Traffic
from crypto.backends.backend_spec import backend_spec
from crypto.names import Allocation, Backend, ComparisonGroup, Phase, Pruner, ReleaseKind, Schedule
from crypto.plan import Plan
from crypto.releases.release_spec import release_spec
from crypto.releases.votes import votes_in_words

SCHEMA_VERSION: Final = 1
NOT_YET: Final = "not_yet"
"""Why there are no perplexities as long as the evaluation goes on."""


@dataclass(frozen=True)
class SparsityRatio:
    """Fractions of the prunable weights that are zero."""

    asked: str
    """The ratio as it was typed, or the pattern."""
    achieved: float
    per_tensor: Mapping[str, float]
    """By stored name, counted on what was written."""


@dataclass(frozen=True)
class ReportedRound:
    """One round of the run."""

    release: ReleaseKind
    block: int | None
    """The decoder layer that it was about; None where it was about the whole model."""
    cohort: tuple[str, ...]
    survivors: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Perplexity:
    """Perplexities by candidate, over all silos' held-out text together."""

    dense: float
    alone: Mapping[str, float]
    """By silo, of its own keep mask."""
    alone_mean: float | None
    """The mean over these silos; None where there is none."""
    federated: float
    candidates: Mapping[str, float]
    """By name, of keep masks that the user gave."""
    own: float | None = None
    """Over all silos, each with what it pruned alone, on its own text; None where silos prune in parts or block by
    block together."""
    self_calibrated: float | None = None
    """Of what pruning on text that the model writes comes to: nobody shares anything. None where no text is read, or
    the model cannot write any."""


@dataclass(frozen=True)
class Behaviour:
    """How the dense and the sparse model go on from a prompt that the user gave."""

    prompt: str
    dense: str
    sparse: str


@dataclass(frozen=True)
class BytesOnDisk:
    """Bytes of the weight files."""

    dense: int
    model: int
    """The sparse model with its zeros."""
    bitmask: int
    """The same without them, as `aggregator pack` writes it."""


@dataclass(frozen=True)
class Promise:
    """The differential privacy of each unit of the silos' text."""

    epsilon: float
    delta: float
    in_words: str
    """Of what else the noise keeps, and how much."""


@dataclass(frozen=True)
class Report:
    """What a run came to. The fields are those of `report.json`, in its order (docs/formats.md, 6)."""

    schema_version: int
    sparsilo_version: str
    silos: tuple[str, ...]
    survivors: tuple[str, ...]
    dropped: Mapping[str, Phase]
    threshold: int
    backend: Backend
    release: ReleaseKind
    pruner: Pruner
    comparison_group: ComparisonGroup
    pattern: str
    allocation: Allocation
    schedule: Schedule
    weight_scaling: bool
    sparsity_ratio: SparsityRatio
    weights: int
    keep_counts: Mapping[str, Sequence[int]]
    """By tensor, how many of its weights were kept by 0, 1, ... all survivors."""
    rounds: tuple[ReportedRound, ...]
    bytes: Mapping[str, Traffic]
    seconds: Mapping[Phase, float]
    """By phase over all rounds, to the millisecond."""
    plan_digest: str
    perplexity: Perplexity | None
    """None where no evaluation was asked for, or it is not over, or failed."""
    bytes_on_disk: BytesOnDisk
    not_evaluated: str = ""
    """Why perplexities that were asked for are missing: NOT_YET, or the error's code."""
    behaviour: tuple[Behaviour, ...] = ()
    """A pair for each prompt; none where none was given."""
    gain: Gain | None = None
    """What federating was worth; None where there are no perplexities."""
    promise: Promise | None = None
    """The differential privacy that the plan keeps; None where it has no noise."""

    @property
    def document(self) -> dict[str, Any]:
        """The content of `report.json`, as json.dumps takes it; what was not asked for is left out."""
        document = asdict(self)
        for field in ("behaviour", "not_evaluated"):
            if not document[field]:
                del document[field]
        for field in ("perplexity", "gain", "promise"):
            if document[field] is None:
                del document[field]
            else:
                document[field] = {name: value for name, value in document[field].items() if value is not None}
        return document

    @property
    def unevaluated(self) -> str:
        """What of an evaluation is missing, in words; empty where nothing is."""
        if not self.not_evaluated:
            return ""
        if self.not_evaluated == NOT_YET:
            return "The evaluation is not over."
        return f"The evaluation failed ({self.not_evaluated}). That takes nothing from the model."

    @property
    def seen(self) -> str:
        """What the aggregator saw, in words."""
        backend, release = backend_spec(self.backend), release_spec(self.release)
        if not backend.hides_words:
            return f"The aggregator saw {backend.aggregator_saw}."
        fewest = min(len(reported.survivors) for reported in self.rounds)
        agreed = "" if release.pools else " Where all silos agree, the sum tells each one's choice."
        words = (
            f"The aggregator saw {backend.aggregator_saw}, and opened only their sums over {fewest} silos: "
            f"{release.seen}. It did not see any silo's {release.unseen}.{agreed} {backend.audit_in_words}"
        )
        if self.promise is not None:
            words += f" Silos had added noise: {self.promise.in_words}."
        if self.perplexity is not None and self.perplexity.alone:
            words += (
                " For the rows 'alone' this rehearsal read the silos' keep masks from this machine's disk; in a "
                "deployment nobody can."
            )
        return words


def make_report(
    plan: Plan,
    rounds: Sequence[ClosedRound],
    achieved: Mapping[str, float],
    traffic: Mapping[str, Traffic],
    keep_counts: Mapping[str, Sequence[int]],
    bytes_on_disk: BytesOnDisk,
    behaviour: Sequence[Behaviour] = (),
    not_evaluated: str = "",
) -> Report:
    """Return the report of a run whose pruning's rounds are closed; perplexities come later.

    `achieved` is the fraction of zeros written, by tensor.
    """
    sizes = {tensor.name: tensor.shape[0] * tensor.shape[1] for tensor in plan.prunable}
    weights = sum(sizes.values())
    overall = sum(achieved[name] * size for name, size in sizes.items()) / weights
    pruning = plan.message.pruning
    return Report(
        schema_version=SCHEMA_VERSION,
        sparsilo_version=version("sparsilo"),
        silos=plan.silos,
        survivors=tuple(silo for silo in plan.silos if _survived(silo, rounds)),
        dropped=_dropped(rounds),
        threshold=plan.message.threshold,
        backend=plan.backend,
        release=plan.release_kind(len(rounds) - 1),
        pruner=plan.pruning.pruner,
        comparison_group=plan.pruning.comparison_group,
        pattern=pruning.pattern,
        allocation=plan.pruning.allocation,
        schedule=plan.pruning.schedule,
        weight_scaling=pruning.weight_scaling,
        sparsity_ratio=SparsityRatio(
            pruning.sparsity_ratio or pruning.pattern, overall, {name: achieved[name] for name in sizes}
        ),
        weights=weights,
        keep_counts={name: keep_counts[name] for name in sizes if name in keep_counts},
        rounds=tuple(_reported(plan, closed) for closed in rounds),
        bytes={silo: traffic[silo] for silo in plan.silos},
        seconds=_seconds(rounds),
        plan_digest=plan.digest.hex(),
        perplexity=None,
        bytes_on_disk=bytes_on_disk,
        not_evaluated=not_evaluated,
        behaviour=tuple(behaviour),
        promise=_promise(plan),
    )


def _promise(plan: Plan) -> Promise | None:
    pruning = plan.message.pruning
    if not plan.pruning.has_noise:
        return None
    of_unit = f"each person, or else record, in their text has epsilon {pruning.epsilon:.3g} at delta {pruning.delta:g}"
    of_votes = f"; {votes_in_words(plan)}" if plan.pruning.vote_units else ""
    return Promise(pruning.epsilon, pruning.delta, f"{of_unit}{of_votes}")


def _reported(plan: Plan, closed: ClosedRound) -> ReportedRound:
    index = closed.round.index
    return ReportedRound(
        release=plan.release_kind(index),
        block=plan.block(index),
        cohort=closed.round.silos,
        survivors=closed.survivors,
        seconds=round(sum(closed.seconds.values()), 3),
    )


def _survived(silo: str, rounds: Iterable[ClosedRound]) -> bool:
    """Return whether the silo's words are in the sum of every round that it was drawn for."""
    return all(silo in closed.survivors for closed in rounds if silo in closed.round.silos)


def _dropped(rounds: Sequence[ClosedRound]) -> dict[str, Phase]:
    """By silo the phase in which it first fell silent."""
    phases = {silo: phase for closed in reversed(rounds) for silo, phase in closed.dropped.items()}
    return dict(sorted(phases.items()))


def _seconds(rounds: Iterable[ClosedRound]) -> dict[Phase, float]:
    seconds: dict[Phase, float] = {}
    for closed in rounds:
        for phase, spent in closed.seconds.items():
            seconds[phase] = seconds.get(phase, 0) + spent
    return {phase: round(spent, 3) for phase, spent in seconds.items()}
