"""From what the user asked for to the plan that every silo is asked to agree to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

from crypto.errors import ConfigError, PlanError
from crypto.names import PROTOCOL, Allocation, Backend, Pruner, ReleaseKind, Schedule, Suite
from crypto.plan import FEWEST_SILOS, RUN_BYTES, Plan, least_threshold
from crypto.pruning.sparsity import Pattern, Sparsity, spell_ratio
from crypto.secagg.session import Entropy
from silo_agent.model.dense_weights import DenseWeights
from sparsilo.v1 import plan_pb2

CHUNK_WORDS: Final = 1 << 17
"""1 MiB: masking a chunk costs far more than deriving its keys, and a chunk is far below gRPC's message limit."""

PREPARATION_SECONDS: Final = 6 * 3600


@dataclass(frozen=True)
class PruningSettings:
    """What is pruned, and how."""

    pruner: Pruner
    sparsity: Sparsity
    """Of mask expansion: the target, and the groups in which keep counts are compared."""
    samples: int
    sequence_length: int
    release: ReleaseKind = ReleaseKind.VOTES
    allocation: Allocation = Allocation.UNIFORM
    schedule: Schedule = Schedule.ONE_SHOT
    weight_scaling: bool = False
    force_comparison_group: bool = False
    cohort_floor: int = 0
    """Layer sampling: fewest silos a block; 0 without it."""
    capacities: Mapping[str, int] = field(default_factory=dict)
    """With layer sampling, blocks by silo; all blocks where a silo is missing."""
    own_ratios: Mapping[str, Decimal] = field(default_factory=dict)
    """Sparsity ratios of silos that prune with another than the plan's."""


@dataclass(frozen=True)
class CohortSettings:
    """Who takes part, and what a sum may be opened over."""

    roster: Mapping[str, bytes]
    threshold: int | None
    backend: Backend
    phase_seconds: int
    suite: Suite
    colluders: int = 0
    preparation_seconds: int = PREPARATION_SECONDS


def default_threshold(silos: int, colluders: int) -> int:
    """A majority, and at least three beside the colluders: a sum over two tells each the other's."""
    return max(least_threshold(silos, colluders), min(FEWEST_SILOS + colluders, silos))


class Planner:
    """Makes plans over one model and one cohort. The model's digests are computed once."""

    def __init__(
        self, weights: DenseWeights, pruning: PruningSettings, cohort: CohortSettings, entropy: Entropy
    ) -> None:
        self._pruning = pruning
        self._cohort = cohort
        self._entropy = entropy
        unknown = sorted({*pruning.capacities, *pruning.own_ratios} - {*cohort.roster})
        if unknown:
            raise ConfigError(f"{unknown[0]} is no silo of this run", hint=f"silos: {', '.join(sorted(cohort.roster))}")
        digests = weights.digest()
        blocks = {name: block.index for block in weights.blocks for name in block.prunable}
        self._blocks = len(weights.blocks)
        self.model: Final = [
            plan_pb2.Tensor(
                name=name,
                digest=digests[name],
                shape=weights.shape(name),
                prunable=name in blocks,
                block=blocks.get(name, 0),
                input_first=name in blocks and weights.input_first(name),
            )
            for name in sorted(digests)
        ]

    def pruning(self) -> Plan:
        """The rounds in which keep masks, or pruned weights, are summed."""
        message = self._message()
        for kind, block in Plan(message, b"").rounds_of(self._pruning.release):
            spec = message.rounds.add(block=block)  # None leaves it out
            getattr(spec, kind).SetInParent()
        return Plan.of(message)

    def evaluation(self, sequences: int, candidates: Mapping[str, bytes | None]) -> Plan:
        """One round that evaluates pruned files, by digest; None is the dense model."""
        message = self._message()
        spec = message.rounds.add().evaluation
        spec.sequences = sequences
        for name, digest in candidates.items():
            if digest is None:
                spec.candidates.add(name=name, dense=True)
            else:
                spec.candidates.add(name=name, digest=digest)
        return Plan.of(message)

    def _message(self) -> plan_pb2.Plan:
        """All but the rounds."""
        cohort, pruning = self._cohort, self._pruning
        silos, target = len(cohort.roster), pruning.sparsity.target
        threshold = default_threshold(silos, cohort.colluders) if cohort.threshold is None else cohort.threshold
        for name, value in (("threshold", threshold), ("cohort floor", pruning.cohort_floor)):
            if not 0 <= value <= silos:  # which the wire's unsigned field might not even hold
                raise PlanError(f"plan: {name}: {value} is out of range for {silos} silos")
        return plan_pb2.Plan(
            protocol=PROTOCOL,
            run=self._entropy(RUN_BYTES),
            suite=cohort.suite,
            backend=cohort.backend,
            roster=[self._member(silo, key) for silo, key in sorted(cohort.roster.items())],
            threshold=threshold,
            least_survivors=threshold,
            colluders=cohort.colluders,
            two_honest_survivors=cohort.threshold == 2,  # only because somebody asked for it by number
            model=self.model,
            pruning=plan_pb2.Pruning(
                pruner=pruning.pruner,
                sparsity_ratio="" if isinstance(target, Pattern) else spell_ratio(target),
                pattern=str(target) if isinstance(target, Pattern) else "",
                comparison_group=pruning.sparsity.group,
                samples=pruning.samples,
                sequence_length=pruning.sequence_length,
                allocation=pruning.allocation if pruning.allocation is not Allocation.UNIFORM else "",
                schedule=pruning.schedule if pruning.schedule is not Schedule.ONE_SHOT else "",
                weight_scaling=pruning.weight_scaling,
                force_comparison_group=pruning.force_comparison_group,
                cohort_floor=pruning.cohort_floor,
            ),
            chunk_words=CHUNK_WORDS,
            phase_seconds=cohort.phase_seconds,
            preparation_seconds=max(cohort.preparation_seconds, cohort.phase_seconds),
        )

    def _member(self, silo: str, key: bytes) -> plan_pb2.Member:
        ratio, most = self._pruning.own_ratios.get(silo), self._blocks if self._pruning.cohort_floor else 0
        return plan_pb2.Member(
            silo=silo,
            signing_key=key,
            sparsity_ratio="" if ratio is None else spell_ratio(ratio),
            capacity=self._pruning.capacities.get(silo, most),
        )


def silo_names(files: Sequence[Path]) -> list[str]:
    """A silo name for each calibration file, from the file's; numbered where two would be the same."""
    names: list[str] = []
    for file in files:
        stem = re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:48].strip("-") or "silo"
        names.append(
            next(name for n in range(len(files) + 1) if (name := f"{stem}-{n + 1}" if n else stem) not in names)
        )
    return names
