"""From what the user asked for to the plan that every silo is asked to agree to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto.errors import PlanError
from crypto.names import PROTOCOL, Backend, ComparisonGroup, Pruner, Suite
from crypto.plan import FEWEST_SILOS, RUN_BYTES, Plan, least_threshold, parse_ratio, spell_ratio
from crypto.secagg.session import Entropy
from silo_agent.dense_weights import DenseWeights
from sparsilo.v1 import plan_pb2

CHUNK_WORDS: Final = 1 << 17
"""1 MiB: masking a chunk costs far more than deriving its keys, and a chunk is far below gRPC's message limit."""

PREPARATION_SECONDS: Final = 6 * 3600


@dataclass(frozen=True)
class PruningSettings:
    """What is pruned, and how."""

    pruner: Pruner
    sparsity_ratio: str
    comparison_group: ComparisonGroup
    samples: int
    sequence_length: int


@dataclass(frozen=True)
class CohortSettings:
    """Who takes part, and what a sum may be opened over."""

    roster: Mapping[str, bytes]
    threshold: int | None
    backend: Backend
    phase_seconds: int
    suite: Suite


def default_threshold(silos: int) -> int:
    """A majority, and at least three: a sum over two tells each the other's."""
    return max(least_threshold(silos, 0), min(FEWEST_SILOS, silos))


class Planner:
    """Makes plans over one model and one cohort. The model's digests are computed once."""

    def __init__(
        self, weights: DenseWeights, pruning: PruningSettings, cohort: CohortSettings, entropy: Entropy
    ) -> None:
        self._pruning = pruning
        self._cohort = cohort
        self._entropy = entropy
        digests, prunable = weights.digest(), frozenset(weights.prunable)
        self.model: Final = [
            plan_pb2.Tensor(name=name, digest=digests[name], shape=weights.shape(name), prunable=name in prunable)
            for name in sorted(digests)
        ]

    def votes(self) -> Plan:
        """One round that sums keep masks."""
        return self._plan(plan_pb2.Round(votes=plan_pb2.Votes()))

    def evaluation(self, sequences: int, candidates: Mapping[str, bytes | None]) -> Plan:
        """One round that evaluates keep-mask files, by digest; None is the dense model."""
        return self._plan(
            plan_pb2.Round(
                evaluation=plan_pb2.Evaluation(
                    sequences=sequences,
                    candidates=[
                        plan_pb2.Candidate(name=name, dense=True)
                        if digest is None
                        else plan_pb2.Candidate(name=name, digest=digest)
                        for name, digest in candidates.items()
                    ],
                )
            )
        )

    def _plan(self, *rounds: plan_pb2.Round) -> Plan:
        cohort, pruning = self._cohort, self._pruning
        silos = len(cohort.roster)
        threshold = default_threshold(silos) if cohort.threshold is None else cohort.threshold
        if not 0 <= threshold <= silos:  # which the wire's unsigned field might not even hold
            raise PlanError(f"plan: threshold: {threshold} is out of range for {silos} silos")
        return Plan.of(
            plan_pb2.Plan(
                protocol=PROTOCOL,
                run=self._entropy(RUN_BYTES),
                suite=cohort.suite,
                backend=cohort.backend,
                roster=[plan_pb2.Member(silo=silo, signing_key=key) for silo, key in sorted(cohort.roster.items())],
                threshold=threshold,
                least_survivors=threshold,
                colluders=0,
                two_honest_survivors=cohort.threshold == 2,  # only because somebody asked for it by number
                model=self.model,
                pruning=plan_pb2.Pruning(
                    pruner=pruning.pruner,
                    sparsity_ratio=spell_ratio(parse_ratio(pruning.sparsity_ratio)),
                    comparison_group=pruning.comparison_group,
                    samples=pruning.samples,
                    sequence_length=pruning.sequence_length,
                ),
                rounds=rounds,
                chunk_words=CHUNK_WORDS,
                phase_seconds=cohort.phase_seconds,
                preparation_seconds=max(PREPARATION_SECONDS, cohort.phase_seconds),
            )
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
