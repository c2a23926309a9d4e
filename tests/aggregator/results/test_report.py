"""`report.json` of a real round, and the tables for a person."""

import asyncio
import json
from collections.abc import Mapping
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aggregator.results.report import Perplexity, make_report, print_report
from aggregator.rounds.round_driver import ClosedRound, Traffic
from crypto.backends.double_masking.phases import TABLE
from crypto.names import Backend, Phase
from crypto.secagg.round import Round
from sparsilo.v1 import plan_pb2
from support.driven import Driven, plan

ACHIEVED = {"blocks.0.weight": 0.5, "blocks.1.weight": 0.75}
KEEP_COUNTS = {"blocks.0.weight": [10, 20, 20, 10], "blocks.1.weight": [0, 6, 6, 0]}
SIZES = {"blocks.0.weight": 60, "blocks.1.weight": 12}
PERPLEXITY = Perplexity(
    dense=10.5,
    alone={"silo-000": 40.25, "silo-001": 31.125, "silo-003": 20.0},
    federated=15.0625,
    candidates={"theirs [red]": 99.5},
)


def closed(
    folder: Path, lost: Mapping[str, Phase] | None = None, backend: Backend = Backend.DOUBLE_MASKING
) -> tuple[Driven, ClosedRound]:
    async def run() -> tuple[Driven, ClosedRound]:
        message = plan(4, backend=backend, threshold=3).message
        message.model[1].shape[:] = [3, 4]
        driven = Driven(type(plan()).of(message), folder)
        for silo in lost or {}:
            await driven.driver.gone(silo)
        return driven, await driven.run(lost)

    return asyncio.run(run())


def report(
    folder: Path,
    lost: Mapping[str, Phase] | None = None,
    backend: Backend = Backend.DOUBLE_MASKING,
    perplexity: Perplexity | None = None,
) -> dict[str, Any]:
    driven, votes = closed(folder, lost, backend)
    traffic = {silo: Traffic(1000 + at, 2000000 + at) for at, silo in enumerate(driven.round.plan.silos)}
    made = make_report(driven.round.plan, [votes], ACHIEVED, traffic, KEEP_COUNTS, perplexity)
    assert made["plan_digest"] == driven.round.plan.digest.hex()
    return made


def printed(report: Mapping[str, Any], model: str = "out/model") -> str:
    text = StringIO()
    print_report(report, model, Console(file=text, width=160))
    return text.getvalue()


def test_the_fields(tmp_path: Path) -> None:
    made = report(tmp_path, {"silo-002": Phase.UPLOAD})
    assert json.loads(json.dumps(made)) == made
    seconds = made.pop("seconds")
    assert list(seconds) == list(TABLE)
    assert all(0 <= value < 20 and round(value, 3) == value for value in seconds.values())
    assert len(made.pop("plan_digest")) == 64
    assert made == {
        "schema_version": 1,
        "sparsilo_version": version("sparsilo"),
        "silos": ["silo-000", "silo-001", "silo-002", "silo-003"],
        "survivors": ["silo-000", "silo-001", "silo-003"],
        "dropped": {"silo-002": "upload"},
        "threshold": 3,
        "backend": "double_masking",
        "release": "votes",
        "pruner": "wanda",
        "comparison_group": "layer",
        "sparsity_ratio": {
            "asked": "0.5",
            "achieved": pytest.approx((0.5 * 60 + 0.75 * 12) / 72),
            "per_tensor": ACHIEVED,
        },
        "pattern": "",
        "allocation": "uniform",
        "schedule": "one-shot",
        "weight_scaling": False,
        "weights": 72,
        "keep_counts": KEEP_COUNTS,
        "rounds": [
            {
                "release": "votes",
                "block": None,
                "cohort": ["silo-000", "silo-001", "silo-002", "silo-003"],
                "survivors": ["silo-000", "silo-001", "silo-003"],
                "seconds": pytest.approx(sum(seconds.values()), abs=0.01),
            }
        ],
        "bytes": {f"silo-00{at}": {"up": 1000 + at, "down": 2000000 + at} for at in range(4)},
    }


def test_the_fields_of_an_evaluation(tmp_path: Path) -> None:
    made = report(tmp_path, perplexity=PERPLEXITY)
    assert made["dropped"] == {}
    assert json.loads(json.dumps(made["perplexity"])) == {
        "dense": 10.5,
        "alone": {"silo-000": 40.25, "silo-001": 31.125, "silo-003": 20.0},
        "alone_mean": pytest.approx(30.458333333333332),
        "federated": 15.0625,
        "candidates": {"theirs [red]": 99.5},
    }


def test_the_tables(tmp_path: Path) -> None:
    made = report(tmp_path, {"silo-002": Phase.KEYS}, perplexity=PERPLEXITY)
    text = printed(made)
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 2}
    assert "dropped in keys" in rows["silo-002"]
    assert "1,002" in rows["silo-002"]
    assert "2,000,002" in rows["silo-002"]
    assert "survived" in rows["silo-003"]
    assert "10.50" in rows["dense, not pruned"]
    assert "40.25" in rows["silo-000 alone"]
    assert "30.46" in rows["mean of the silos alone"]
    assert "15.06" in rows["federated"]
    assert "silo-002 alone" not in rows
    assert all(f"{seconds:.2f}" in rows[phase] for phase, seconds in made["seconds"].items())
    assert "out/model" in text
    assert "54.1667% of 72 prunable weights are zero, 0.5 was asked" in " ".join(text.split())


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    """Such as rich's own markup."""
    text = printed(report(tmp_path, perplexity=PERPLEXITY), "out[bold]/x[/]/model")
    assert "theirs [red]" in text
    assert "out[bold]/x[/]/model" in text


def test_without_an_evaluation_there_is_no_perplexity(tmp_path: Path) -> None:
    made = report(tmp_path)
    assert "perplexity" not in made
    assert "erplexity" not in printed(made)


@pytest.mark.parametrize("backend", list(Backend))
def test_the_tables_say_what_the_aggregator_saw(backend: Backend, tmp_path: Path) -> None:
    made = report(tmp_path, backend=backend)
    assert made["backend"] == backend
    text = " ".join(printed(made).split())
    insecure = "saw every silo's keep mask: insecure_plaintext hides nothing"
    masked = "saw masked words, which are uniformly random, and opened only their sums over 4 silos"
    assert (insecure in text, masked in text) == (
        backend is Backend.INSECURE_PLAINTEXT,
        backend is Backend.DOUBLE_MASKING,
    )


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
    for index, made in enumerate((first, second)):
        made.session.round = Round(type(plan).of(message), index)
    report = make_report(type(plan).of(message), [first, second], ACHIEVED, traffic, KEEP_COUNTS, None)
    assert report["dropped"] == {"silo-001": "upload", "silo-002": "keys"}
    assert [made["block"] for made in report["rounds"]] == [0, 1]
    assert [made["survivors"] for made in report["rounds"]] == [
        ["silo-000", "silo-001", "silo-003"],
        ["silo-000", "silo-002", "silo-003"],
    ]
    for phase in TABLE:
        assert report["seconds"][phase] == pytest.approx(first.seconds[phase] + second.seconds[phase], abs=0.001)
    assert (report["schedule"], report["weight_scaling"]) == ("iterative", True)
    third.session.round = second.session.round
    twice = make_report(second.session.round.plan, [first, third], ACHIEVED, traffic, KEEP_COUNTS, None)
    assert twice["dropped"] == {"silo-002": "keys"}


def test_the_tables_say_what_a_sum_of_weights_shows(tmp_path: Path) -> None:
    made = report(tmp_path) | {"release": "weights"}
    text = " ".join(printed(made).split())
    assert "how many kept each weight, and by how much together they changed it" in text
    assert "Where one silo alone kept a weight, that sum is its value" in text
    assert "that sum is its value" not in " ".join(printed(report(tmp_path / "votes")).split())


def test_without_the_silos_own_models_there_is_no_mean_of_them(tmp_path: Path) -> None:
    alone = Perplexity(dense=10.0, alone={}, federated=12.0, candidates={})
    made = report(tmp_path, perplexity=alone)
    assert made["perplexity"] == {"dense": 10.0, "alone": {}, "federated": 12.0, "candidates": {}}
    assert "alone" not in printed(made).split("Silos")[0]
