"""plan.yaml: what a coordinator wants of a run, in the words of `aggregator local`'s options."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path

from aggregator.runs.planning import CohortSettings, PruningSettings
from aggregator.runs.run import Wanted
from crypto.errors import ConfigError
from crypto.names import Allocation, Backend, ComparisonGroup, Pruner, ReleaseKind, Schedule, Suite
from crypto.pruning.sparsity import Pattern, Sparsity, parse_ratio
from silo_agent.host.layered_config import NOTHING, read_config
from silo_agent.model.calibration import usual_length
from silo_agent.model.dense_weights import DenseWeights


@dataclass(frozen=True)
class PlanFile:
    """Every field has the default of `aggregator local`'s option of that name."""

    release: ReleaseKind = ReleaseKind.VOTES
    pruner: Pruner = Pruner.WANDA
    sparsity_ratio: Decimal | None = None
    pattern: str = ""
    comparison_group: ComparisonGroup = ComparisonGroup.LAYER
    force_comparison_group: bool = False
    schedule: Schedule = Schedule.ONE_SHOT
    weight_scaling: bool = False
    allocation: Allocation = Allocation.UNIFORM
    silo_sparsity_ratios: Mapping[str, Decimal | None] = field(default_factory=dict)
    cohort_floor: int = 0
    capacities: Mapping[str, int] = field(default_factory=dict)
    samples: int = 128
    sequence_length: int = 0
    """0: 2048, or the model's most."""
    threshold: int = 0
    """0: a majority, at least 3."""
    colluders: int = 0
    phase_seconds: int = 600
    preparation_seconds: int = 24 * 3600
    """How long silos have to approve and to prune."""
    evaluate: int = 0
    save_counts: bool = False
    save_transcript: bool = True

    @classmethod
    def read(cls, file: Path) -> "PlanFile":
        """Raises ConfigError naming file and field."""
        read, origins = read_config(cls, file, NOTHING, ())
        given = {name for name, origin in origins.items() if origin != "default"}
        if read.release not in (ReleaseKind.VOTES, ReleaseKind.WEIGHTS):
            raise ConfigError(f"{file}: release: {read.release} is not asked for by itself", hint="votes or weights")
        if read.pattern and given & {"sparsity_ratio", "comparison_group"}:
            raise ConfigError(f"{file}: pattern: says it all", hint="leave out sparsity_ratio and comparison_group")
        for each in fields(cls):
            value = getattr(read, each.name)
            if each.type is int and value < 0:
                raise ConfigError(f"{file}: {each.name}: must not be negative")
        return read

    def pruning(self, weights: DenseWeights) -> PruningSettings:
        """For a Planner. Raises ConfigError or PlanError."""
        if self.pattern:
            sparsity = Sparsity(Pattern.parse(self.pattern), ComparisonGroup.ROW)
        else:
            ratio = parse_ratio("0.5") if self.sparsity_ratio is None else self.sparsity_ratio
            sparsity = Sparsity(ratio, self.comparison_group)
        return PruningSettings(
            pruner=self.pruner,
            sparsity=sparsity,
            samples=self.samples,
            sequence_length=usual_length(weights.config, self.sequence_length or None),
            release=self.release,
            allocation=self.allocation,
            schedule=self.schedule,
            weight_scaling=self.weight_scaling,
            force_comparison_group=self.force_comparison_group,
            cohort_floor=self.cohort_floor,
            capacities=self.capacities,
            own_ratios={silo: ratio for silo, ratio in self.silo_sparsity_ratios.items() if ratio is not None},
        )

    def cohort(self, roster: Mapping[str, bytes], suite: Suite) -> CohortSettings:
        """For a Planner."""
        return CohortSettings(
            roster,
            self.threshold or None,
            Backend.DOUBLE_MASKING,
            self.phase_seconds,
            suite,
            colluders=self.colluders,
            preparation_seconds=self.preparation_seconds,
        )

    def wanted(self) -> Wanted:
        """What the run leaves behind."""
        return Wanted(self.evaluate, self.save_counts, self.save_transcript)
