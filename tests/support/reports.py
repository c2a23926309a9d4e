"""A report of a round that three of four silos survived, with everything that a report may have."""

from dataclasses import replace
from typing import Any

from aggregator.results.report import BytesOnDisk, Perplexity, Report, ReportedRound, SparsityRatio
from aggregator.rounds.traffic import Traffic
from crypto.names import Allocation, Backend, ComparisonGroup, Phase, Pruner, ReleaseKind, Schedule
from support.keep_counts import histogram, keep_masks

MATRICES = ("self_attn.q_proj", "mlp.down_proj")
SILOS = ("north", "south", "east", "west")


MASKS = {
    f"model.layers.{block}.{matrix}.weight": keep_masks(3, 100 + 50 * at, seed=10 * block + at)
    for block in (10, 2)
    for at, matrix in enumerate(MATRICES)
}


def report(**changes: Any) -> Report:
    """The report, with some of its fields otherwise."""
    per_tensor = {name: 1 - float(masks.any(axis=0).mean()) for name, masks in MASKS.items()}
    alone = {silo: 20.0 + at for at, silo in enumerate(SILOS[:3])}
    full = Report(
        schema_version=1,
        sparsilo_version="0.1.0",
        silos=SILOS,
        survivors=SILOS[:3],
        dropped={"west": Phase.UPLOAD},
        threshold=3,
        backend=Backend.DOUBLE_MASKING,
        release=ReleaseKind.VOTES,
        pruner=Pruner.WANDA,
        comparison_group=ComparisonGroup.ROW,
        pattern="",
        allocation=Allocation.UNIFORM,
        schedule=Schedule.ONE_SHOT,
        weight_scaling=False,
        sparsity_ratio=SparsityRatio("0.5", 0.512345, per_tensor),
        weights=1_234_567,
        keep_counts={name: histogram(masks) for name, masks in MASKS.items()},
        rounds=(ReportedRound(ReleaseKind.VOTES, None, SILOS, SILOS[:3], 6.25),),
        bytes={silo: Traffic(1_500_000 + at, 999) for at, silo in enumerate(SILOS)},
        seconds={Phase.PLAN: 1.25, Phase.UPLOAD: 5.0},
        plan_digest="ab" * 32,
        perplexity=Perplexity(10.0, alone, 21.0, 15.0, {"by hand": 40.0}, 18.0),
        bytes_on_disk=BytesOnDisk(4_000_000, 4_000_100, 1_400_000),
    )
    return replace(full, **changes)
