"""The report of a real round, and `report.json` word by word."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from aggregator.results.report import (
    Behaviour,
    BytesOnDisk,
    Perplexity,
    Report,
    ReportedRound,
    SparsityRatio,
    make_report,
)
from aggregator.rounds.closed_round import ClosedRound
from aggregator.rounds.traffic import Traffic
from crypto.backends.double_masking.phases import TABLE
from crypto.names import Allocation, Backend, ComparisonGroup, Phase, Pruner, ReleaseKind, Schedule
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from sparsilo.v1 import plan_pb2
from support.driven import Driven, plan
from support.reports import report as full_report

ACHIEVED = {"blocks.0.weight": 0.5, "blocks.1.weight": 0.75}
KEEP_COUNTS = {"blocks.0.weight": [10, 20, 20, 10], "blocks.1.weight": [0, 6, 6, 0]}
ON_DISK = BytesOnDisk(dense=400, model=401, bitmask=300)
PERPLEXITY = Perplexity(
    dense=10.5,
    alone={"silo-000": 40.25, "silo-001": 31.125, "silo-003": 20.0},
    alone_mean=30.5,
    federated=15.0625,
    candidates={"theirs [red]": 99.5},
)


def closed(
    folder: Path, lost: Mapping[str, Phase] | None = None, backend: Backend = Backend.DOUBLE_MASKING
) -> tuple[Driven, ClosedRound]:
    async def run() -> tuple[Driven, ClosedRound]:
        message = plan(4, backend=backend, threshold=3).message
        message.model[1].shape[:] = [3, 4]
        driven = Driven(checked_plan(message), folder)
        for silo in lost or {}:
            await driven.driver.gone(silo)
        return driven, await driven.run(lost)

    return asyncio.run(run())


def report(
    folder: Path,
    lost: Mapping[str, Phase] | None = None,
    backend: Backend = Backend.DOUBLE_MASKING,
    perplexity: Perplexity | None = None,
) -> Report:
    driven, votes = closed(folder, lost, backend)
    traffic = {silo: Traffic(1000 + at, 2000000 + at) for at, silo in enumerate(driven.round.plan.silos)}
    made = make_report(driven.round.plan, [votes], ACHIEVED, traffic, KEEP_COUNTS, ON_DISK)
    assert made.perplexity is None
    made = replace(made, perplexity=perplexity)
    assert made.plan_digest == driven.round.plan.digest.hex()
    return made


DOCUMENT = """{
  "schema_version": 1,
  "sparsilo_version": "0.0.0",
  "silos": [
    "north",
    "south",
    "west"
  ],
  "survivors": [
    "north",
    "south"
  ],
  "dropped": {
    "west": "upload"
  },
  "threshold": 2,
  "backend": "double_masking",
  "release": "weights",
  "pruner": "sparsegpt",
  "comparison_group": "row",
  "pattern": "2:4",
  "allocation": "owl",
  "schedule": "iterative",
  "weight_scaling": true,
  "sparsity_ratio": {
    "asked": "2:4",
    "achieved": 0.5,
    "per_tensor": {
      "b": 0.5,
      "a": 0.25
    }
  },
  "weights": 72,
  "keep_counts": {
    "b": [
      1,
      2
    ],
    "a": [
      3,
      4
    ]
  },
  "rounds": [
    {
      "release": "outliers",
      "block": null,
      "cohort": [
        "north",
        "south",
        "west"
      ],
      "survivors": [
        "north",
        "south"
      ],
      "seconds": 1.5
    },
    {
      "release": "weights",
      "block": 0,
      "cohort": [
        "north",
        "south"
      ],
      "survivors": [
        "north",
        "south"
      ],
      "seconds": 2.25
    }
  ],
  "bytes": {
    "north": {
      "up": 1,
      "down": 2
    }
  },
  "seconds": {
    "plan": 0.125,
    "opening": 3.0
  },
  "plan_digest": "abab",
  "perplexity": {
    "dense": 10.5,
    "alone": {
      "north": 40.25
    },
    "alone_mean": 40.25,
    "federated": 15.0625,
    "candidates": {
      "theirs": 99.5
    }
  },
  "bytes_on_disk": {
    "dense": 100,
    "model": 101,
    "bitmask": 60
  }
}"""


def test_the_whole_document() -> None:
    """Names, order and types of everything in report.json."""
    cohort = ("north", "south")
    made = Report(
        schema_version=1,
        sparsilo_version="0.0.0",
        silos=("north", "south", "west"),
        survivors=cohort,
        dropped={"west": Phase.UPLOAD},
        threshold=2,
        backend=Backend.DOUBLE_MASKING,
        release=ReleaseKind.WEIGHTS,
        pruner=Pruner.SPARSEGPT,
        comparison_group=ComparisonGroup.ROW,
        pattern="2:4",
        allocation=Allocation.OWL,
        schedule=Schedule.ITERATIVE,
        weight_scaling=True,
        sparsity_ratio=SparsityRatio("2:4", 0.5, {"b": 0.5, "a": 0.25}),
        weights=72,
        keep_counts={"b": [1, 2], "a": [3, 4]},
        rounds=(
            ReportedRound(ReleaseKind.OUTLIERS, None, (*cohort, "west"), cohort, 1.5),
            ReportedRound(ReleaseKind.WEIGHTS, 0, cohort, cohort, 2.25),
        ),
        bytes={"north": Traffic(1, 2)},
        seconds={Phase.PLAN: 0.125, Phase.OPENING: 3.0},
        plan_digest="abab",
        perplexity=Perplexity(10.5, {"north": 40.25}, 40.25, 15.0625, {"theirs": 99.5}),
        bytes_on_disk=BytesOnDisk(100, 101, 60),
    )
    assert json.dumps(made.document, indent=2) == DOCUMENT
    without = json.loads(DOCUMENT)
    del without["perplexity"]
    assert json.dumps(replace(made, perplexity=None).document) == json.dumps(without)
    behaviour = (Behaviour("Say", "so", "such"),)
    shown = replace(made, behaviour=behaviour).document["behaviour"]
    assert shown == ({"prompt": "Say", "dense": "so", "sparse": "such"},)
    nobody = Perplexity(dense=10.0, alone={}, alone_mean=None, federated=12.0, candidates={})
    document = replace(made, perplexity=nobody).document
    assert document["perplexity"] == {"dense": 10.0, "alone": {}, "federated": 12.0, "candidates": {}}


def test_the_report_of_a_round(tmp_path: Path) -> None:
    made = report(tmp_path, {"silo-002": Phase.UPLOAD})
    assert list(made.seconds) == list(TABLE)
    assert all(0 <= value < 20 and round(value, 3) == value for value in made.seconds.values())
    survivors, silos = ("silo-000", "silo-001", "silo-003"), ("silo-000", "silo-001", "silo-002", "silo-003")
    assert made == Report(
        schema_version=1,
        sparsilo_version=version("sparsilo"),
        silos=silos,
        survivors=survivors,
        dropped={"silo-002": Phase.UPLOAD},
        threshold=3,
        backend=Backend.DOUBLE_MASKING,
        release=ReleaseKind.VOTES,
        pruner=Pruner.WANDA,
        comparison_group=ComparisonGroup.LAYER,
        pattern="",
        allocation=Allocation.UNIFORM,
        schedule=Schedule.ONE_SHOT,
        weight_scaling=False,
        sparsity_ratio=SparsityRatio("0.5", pytest.approx((0.5 * 60 + 0.75 * 12) / 72), ACHIEVED),
        weights=72,
        keep_counts=KEEP_COUNTS,
        rounds=(
            ReportedRound(
                ReleaseKind.VOTES, None, silos, survivors, pytest.approx(sum(made.seconds.values()), abs=0.01)
            ),
        ),
        bytes={f"silo-00{at}": Traffic(1000 + at, 2000000 + at) for at in range(4)},
        seconds=made.seconds,
        plan_digest=made.plan_digest,
        perplexity=None,
        bytes_on_disk=ON_DISK,
    )
    assert report(tmp_path / "all", perplexity=PERPLEXITY).perplexity == PERPLEXITY


def test_several_rounds_are_one_report(tmp_path: Path) -> None:
    """Who was dropped in any is dropped, in its first; seconds add up; the fewest survivors are what was seen."""
    driven, first = closed(tmp_path / "first", {"silo-002": Phase.KEYS})
    _, second = closed(tmp_path / "second", {"silo-001": Phase.UPLOAD})
    _, third = closed(tmp_path / "third", {"silo-002": Phase.PLAN})
    plan = driven.round.plan
    traffic = {silo: Traffic(1, 1) for silo in plan.silos}
    message = plan_pb2.Plan.FromString(plan.encoded)
    message.model[1].block = 1
    message.pruning.schedule, message.pruning.weight_scaling = "iterative", True
    del message.rounds[:]
    for block in range(2):
        message.rounds.add(block=block).votes.SetInParent()
    first, second = (replace(made, round=Round(checked_plan(message), at)) for at, made in enumerate((first, second)))
    report = make_report(checked_plan(message), [first, second], ACHIEVED, traffic, KEEP_COUNTS, ON_DISK)
    assert report.survivors == ("silo-000", "silo-003")
    assert list(report.dropped.items()) == [("silo-001", Phase.UPLOAD), ("silo-002", Phase.KEYS)]
    assert [made.block for made in report.rounds] == [0, 1]
    assert [made.survivors for made in report.rounds] == [
        ("silo-000", "silo-001", "silo-003"),
        ("silo-000", "silo-002", "silo-003"),
    ]
    for phase in TABLE:
        assert report.seconds[phase] == pytest.approx(first.seconds[phase] + second.seconds[phase], abs=0.001)
    assert (report.schedule, report.weight_scaling) == (Schedule.ITERATIVE, True)
    third = replace(third, round=second.round)
    twice = make_report(second.round.plan, [first, third], ACHIEVED, traffic, KEEP_COUNTS, ON_DISK)
    assert twice.dropped == {"silo-002": Phase.KEYS}


@pytest.mark.parametrize("backend", list(Backend))
def test_what_the_aggregator_saw(backend: Backend, tmp_path: Path) -> None:
    """Also of a backend that has other phases."""
    made = report(tmp_path, backend=backend)
    assert made.backend is backend
    insecure = "saw every silo's keep mask: insecure_plaintext hides nothing"
    masked = "saw masked words, which are uniformly random, and opened only their sums over 4 silos"
    assert (insecure in made.seen, masked in made.seen) == (
        backend is Backend.INSECURE_PLAINTEXT,
        backend is Backend.DOUBLE_MASKING,
    )


def test_what_a_sum_of_weights_shows() -> None:
    votes, weights = full_report().seen, full_report(release=ReleaseKind.WEIGHTS).seen
    assert "sums over 3 silos: how many kept each weight. It did not" in votes
    assert "how many kept each weight, and by how much together they changed it" in weights
    assert "Where one silo alone kept a weight, that sum is its value" in weights
    assert "that sum is its value" not in votes
    assert "read the silos' keep masks from this machine's disk" in votes
    assert "disk" not in full_report(perplexity=None).seen
