"""An aggregator that is killed, or whose disk is full, before any one of its file operations: the next one makes the
same model, and no silo has to be there.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from typing import Any

import numpy as np
import pytest

from aggregator.rounds import closed_round
from aggregator.runs.plan_file import PlanFile
from aggregator.runs.planning import Planner
from aggregator.runs.submitted import Runs
from crypto.names import Suite
from crypto.plan import Plan, oriented
from crypto.pruning.sparsity import group_shape
from crypto.releases.votes import nonzero_section, votes_section
from scenarios.world import Lanes
from silo_agent.checkpoint.dense_weights import DenseWeights
from support.driven import Driven
from support.models import tiny_llama
from support.plans import signing_keys

ROOT = Path(__file__).parents[3]


def votes(plan: Plan, seed: int) -> dict[str, Lanes]:
    """One silo's keep masks, which keep about half."""
    chance, lanes = np.random.default_rng(seed), {}
    for tensor in plan.prunable:
        groups, size = group_shape(oriented(tensor), plan.pruning.comparison_group)
        keep = chance.integers(0, 2, (groups, size)).astype(np.uint64)
        lanes[votes_section(tensor.name)] = keep.reshape(-1)
        lanes[nonzero_section(tensor.name)] = keep.sum(1, dtype=np.uint64)
    return lanes


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a state folder with a run whose only round is over but for the file that says so."""
    folder = tmp_path_factory.mktemp("aggregator")
    model = tiny_llama(folder / "dense")
    file = folder / "aggregator.yaml"
    file.write_text(f"public_address: localhost:1\nmodel: {model}\nstate: state\n")
    asked = folder / "plan.yaml"
    asked.write_text("release: votes\nsparsity_ratio: 0.5\nsamples: 4\nsequence_length: 32\n")
    roster = {silo: key.public_bytes for silo, key in signing_keys(3).items()}
    options = PlanFile.read(asked)
    plan = Planner(
        DenseWeights.open(model), options, roster, Suite.DEFAULT, token_bytes, watch=lambda *_: None
    ).pruning()
    runs = Runs(folder / "state")
    run = runs.submit(plan, asked.read_bytes(), datetime.now(UTC))
    runs.begin(run)
    round_folder = runs.folder(run).round(0)
    round_folder.mkdir()
    lanes = {silo: votes(plan, seed) for seed, silo in enumerate(plan.silos)}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_round, "write_whole", full)
        patch.setattr("support.driven.random_lanes", lambda *_: lanes)
        driven = Driven(plan, round_folder)
        with pytest.raises(OSError, match="No space left"):
            asyncio.run(driven.run())
    shutil.rmtree(round_folder / "agents")
    return file


def ended(config: Path, *operations: str) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "support.ended_early", config, *operations]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return map(json.loads, ran.stdout.splitlines())


def check(config: Path, chosen: int | None) -> list[dict[str, Any]]:
    """End it before `chosen` operations of each kind, drawn from a seed, or before all."""
    counted = list(ended(config, "killed:0", "full:1000000"))
    whole = counted[0]["content"]
    assert {result["second"] for result in counted} == {"done"}
    assert any("/result/model/model.safetensors" in file for file in whole)
    assert not any("/round-" in file or "/out/" in file or "/pruned/" in file for file in whole)
    draw = random.Random(1)
    operations: list[str] = []
    for result in counted:
        of_kind = [f"{result['how']}:{at}" for at in range(1, result["seen"] + 1)]
        operations += draw.sample(of_kind, chosen or len(of_kind))
    results = list(ended(config, *operations))
    for result in results:
        assert result["second"] == "done", result
        assert result["content"] == whole, result
        if result["how"] == "killed":
            assert result["first"] == "killed", result
        elif result["first"] == "failed":
            assert "No space left on device" in result["said"], result
            assert "aggregator rounds retry" in result["said"], result
        else:
            assert result["first"] == "done", result
    return results


@pytest.mark.slow
def test_some_operations(config: Path) -> None:
    results = check(config, 2)
    assert {result["how"] for result in results} == {"killed", "full"}


@pytest.mark.minutes
def test_every_operation(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = check(config, None)
    with capsys.disabled():
        for how in ("killed", "full"):
            count = sum(result["how"] == how for result in results)
            print(f"\n{how} before each of {count} file operations: all {count} ended in the same model", end="")  # noqa: T201
    assert len(results) > 50
