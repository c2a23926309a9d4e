"""Rounds of pooled energies whose units are all in one place, with the noise of several silos and without.

They go through the code of a run, from the plan to the model, but for secure aggregation, which adds nothing to a sum.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aggregator.runs.planning import Planner
from crypto.encoding.layout import Chunk, pack_chunk
from crypto.names import Pruner, ReleaseKind, Schedule, Suite
from crypto.plan import Plan
from crypto.plan_options import PlanOptions
from crypto.primitives.signing import SigningKey
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.pruning.pruners import Statistic
from silo_agent.releases import energies
from silo_agent.releases.noise import Noise, NoisyRelease
from silo_agent.releases.silo_side import SiloRelease, SiloWork
from silo_agent.rounds.run_pruning import RunPruning

CPU = torch.device("cpu")
RECORD, DELTA = 64, 1e-6  # tokens a record, each of which is a unit

Lanes = dict[Chunk, NDArray[np.uint64]]


def planned(
    weights: DenseWeights,
    pruner: Pruner,
    ratio: str,
    epsilon: float | None,
    *,
    silos: int,
    samples: int,
    schedule: Schedule | None = None,
) -> Plan:
    """Return a plan for so many silos with at most so many records each; without an epsilon it has no noise."""
    asked = PlanOptions(
        release=ReleaseKind.ENERGIES,
        pruner=pruner,
        sparsity_ratio=Decimal(ratio),
        schedule=schedule,
        epsilon=epsilon,
        delta=None if epsilon is None else DELTA,
        samples=samples,
        sequence_length=RECORD,
        threshold=silos,
    )
    roster = {f"silo-{at}": SigningKey.generate(Suite.DEFAULT).public_bytes for at in range(silos)}
    return Planner(weights, asked, roster, Suite.DEFAULT, secrets.token_bytes, watch=lambda *_: None).pruning()


def run_over(weights: DenseWeights, plan: Plan, records: Tensor, folder: Path) -> RunPruning:
    """Return what prunes by a plan over all records, int64 [n, RECORD]."""
    units = [[record] for record in records]
    return RunPruning(plan, "silo-0", weights, lambda: records, lambda: units, folder, CPU, lambda *_: None)


def without_noise(
    start: Start,
    statistics: Callable[[Statistic], Iterator[Mapping[str, Tensor]]],
    energies_of_units: Callable[[], Iterable[Iterable[Mapping[str, Tensor]]]],
) -> SiloRelease:
    """Return what all silos release in a round, added up, before noise."""
    work: dict[str, Any] = dict.fromkeys(SiloWork.__dataclass_fields__)
    work |= {"plan": start.plan, "index": start.index, "statistics": statistics, "energies_of_units": energies_of_units}
    return energies.prepare(SiloWork(**work))


def pooled(
    weights: DenseWeights,
    plan: Plan,
    records: Tensor,
    folder: Path,
    lie: Callable[[Lanes], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Return what the plan's silos make of the model together, by name; `lie` may change the lanes of a round."""
    silos, run = len(plan.silos), run_over(weights, plan, records, folder)
    opened: list[OpenedRound] = []
    for _ in plan.message.rounds:
        start = Start(plan, opened, run.solving)
        release = without_noise(start, partial(run.statistics, start), partial(run.energies_of_units, start))
        if plan.pruning.clip:
            release = NoisyRelease(release, Noise(secrets.token_bytes(32), bytes(32), silos))
        lanes = {chunk: release.lanes(chunk).astype(np.uint64) for chunk in start.round.layout.chunks}
        lie(lanes)
        opened.append(_opened(start, lanes, silos, folder))
    return dict(run.together(Start(plan, opened, run.solving)))


def _opened(start: Start, lanes: Lanes, silos: int, folder: Path) -> OpenedRound:
    file = folder / f"{start.index}.words"
    with file.open("wb") as words_of_round:
        for chunk, values in lanes.items():
            words = pack_chunk(chunk, values)
            words[0] = silos
            words_of_round.write(words.tobytes())
    return OpenedRound(start.round, silos, bytes(32), file)
