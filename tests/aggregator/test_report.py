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

from aggregator.report import Perplexity, make_report, print_report
from aggregator.round_driver import ClosedRound, Traffic
from crypto.backends.double_masking.phases import TABLE
from crypto.names import Backend, Phase
from driven import Driven, plan

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
