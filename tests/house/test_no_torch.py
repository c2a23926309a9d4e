"""Offline verification, the servicer and the round driver load no torch, and neither do commands that show or decide.

Torch takes seconds to load and hundreds of megabytes; who checks a saved round need not install it.
"""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from aggregator.runs.submitted import Runs
from scenarios.world import World, random_lanes
from silo_agent.consent.state_store import STATE_FILE, StateStore
from support.plans import plan, signing_keys
from support.saved_round import save

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
AGREED = plan(4)
ROOT = Path(__file__).parents[2]
IMPORT = """
import sys
from importlib import import_module
import_module(sys.argv[1])
"""
COMMAND = """
import sys
from importlib import import_module
from silo_agent.host.terminal import run_command

sys.argv = sys.argv[1:]
try:
    run_command(import_module(sys.argv[0]).cli)
except SystemExit as end:
    assert not end.code, end.code
"""
LOADED = """
print("loaded:", *sorted({"torch", "transformers"} & sys.modules.keys()))
"""


def said(code: str, *arguments: object) -> str:
    """What a fresh interpreter prints: the command's output, and then what it has loaded of the two."""
    command = [sys.executable, "-c", code + LOADED, *map(str, arguments)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a saved round; and each role's config and state, with the plan pending here and submitted there."""
    world = World(AGREED, signing_keys(4))
    world.run(random_lanes(AGREED, seed=1))
    save(world, tmp_path / "transcript")
    paths = ("model", "calibration", "signing_key", "roster", "certificate", "private_key", "authority", "policy")
    agent = {"silo": "silo-001", "aggregator": "host:1", "state": "state", **dict.fromkeys(paths, "none")}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(agent))
    StateStore(tmp_path / "state" / STATE_FILE).offer(AGREED.digest, AGREED.encoded, NOW)
    Runs(tmp_path / "state").submit(AGREED, b"", NOW)
    aggregator = {"public_address": "host:1", "model": "none", "state": "state"}
    (tmp_path / "aggregator.yaml").write_text(yaml.safe_dump(aggregator))
    return tmp_path


@pytest.mark.parametrize(
    "module", ["aggregator.edge.servicer", "aggregator.rounds.round_driver", "silo_agent.opened_sums.verify"]
)
def test_a_module_loads_no_torch(module: str) -> None:
    assert said(IMPORT, module) == "loaded:\n"


def test_every_module_of_the_aggregators_rounds_loads_no_torch() -> None:
    modules = [f"aggregator.rounds.{file.stem}" for file in (ROOT / "aggregator/rounds").glob("[a-z]*.py")]
    assert len(modules) > 5
    code = "import sys\nfrom importlib import import_module\nfor module in sys.argv[1:]: import_module(module)"
    assert said(code, *modules) == "loaded:\n"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("silo_agent.cli verify {folder}/transcript --roster {folder}/roster.yaml", "survivors"),
        ("silo_agent.cli config show --config {folder}/agent.yaml", "silo-001"),
        ("silo_agent.cli pending --config {folder}/agent.yaml --output json", "votes"),
        ("aggregator.cli config show --config {folder}/aggregator.yaml", "host:1"),
        ("aggregator.cli rounds list --config {folder}/aggregator.yaml --output json", "votes"),
        ("aggregator.cli rounds show {run} --config {folder}/aggregator.yaml", "votes"),
        ("aggregator.cli silos list --config {folder}/aggregator.yaml --output json", '"silos"'),
    ],
)
def test_a_command_loads_no_torch(command: str, shown: str, folder: Path) -> None:
    out = said(COMMAND, *command.format(folder=folder, run=AGREED.digest.hex()[:16]).split())
    assert shown in out
    assert out.endswith("loaded:\n")


def test_what_loads_torch_is_noticed() -> None:
    assert said(IMPORT, "silo_agent.pruning.keep_mask").startswith("loaded: torch")
