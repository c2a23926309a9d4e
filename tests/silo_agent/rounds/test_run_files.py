"""What a silo keeps of its runs: of the one at work all, of others the transcripts, or those of the last."""

import os
from pathlib import Path

import pytest
import yaml

from silo_agent.cli import cli
from silo_agent.host.owned_folder import owned_folder
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.rounds.run_files import RunFiles, drop_work, prune_runs
from support.commands import Ran, run
from support.plans import plan

PLANS = [plan(silos) for silos in range(4, 8)]
NAMES = [run_plan.digest.hex() for run_plan in PLANS]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder after a run of each plan, of which the first was taken up again last."""
    for second, plan_of_run in enumerate((*PLANS, PLANS[0])):
        files, round_ = RunFiles(tmp_path / "state", plan_of_run.digest, bytes(32)), Start(plan_of_run).round
        files.begin()
        for file in (files.transcript(round_), files.opened_sum(round_), files.candidate(bytes(32))):
            file.write_bytes(b"content")
        os.utime(files.folder, (second, second))
    return tmp_path / "state"


def runs_left(state: Path) -> set[str]:
    return {folder.name for folder in (state / "runs").iterdir()}


def test_what_can_be_computed_again_goes_and_transcripts_stay(state: Path) -> None:
    at_work = RunFiles(state, PLANS[1].digest, bytes(32))
    drop_work(state, but=at_work.work)
    assert [file.parent for file in state.rglob("*.words")] == [at_work.work]
    drop_work(state)
    assert {file.suffix for file in state.rglob("*") if file.is_file()} == {".transcript"}
    assert runs_left(state) == {*NAMES}


def test_a_run_that_is_taken_up_again_is_the_newest(state: Path) -> None:
    assert prune_runs(state, 2) == [NAMES[2], NAMES[1]]
    assert runs_left(state) == {NAMES[0], NAMES[3]}
    assert prune_runs(state, 2) == []
    RunFiles(state, PLANS[3].digest, bytes(32)).begin()
    assert prune_runs(state, 1) == [NAMES[0]]


def test_nothing_is_removed_of_a_state_folder_without_runs(tmp_path: Path) -> None:
    drop_work(tmp_path)
    assert prune_runs(tmp_path, 0) == []


def prune(state: Path, capsys: pytest.CaptureFixture[str], *more: object) -> Ran:
    paths = ("model", "calibration", "signing_key", "roster", "certificate", "private_key", "authority", "policy")
    config = {"silo": "ward-1", "aggregator": "host:1", "state": "state", **dict.fromkeys(paths, "none")}
    (state.parent / "agent.yaml").write_text(yaml.safe_dump(config))
    return run(cli, ["state", "prune", "--config", state.parent / "agent.yaml", *more], capsys)


def test_where_an_agent_runs_its_last_run_stays(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with owned_folder(state):
        assert prune(state, capsys).out.splitlines() == [*NAMES[:0:-1], "removed: 3"]
    assert runs_left(state) == {NAMES[0]}
    assert prune(state, capsys, "--output", "json").data == {"pruned": [NAMES[0]]}
    assert runs_left(state) == set()


def test_keep(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(state, capsys, "--keep", 3).out.splitlines() == [NAMES[1], "removed: 1"]
    assert prune(state, capsys, "--keep", -1).code == 4
