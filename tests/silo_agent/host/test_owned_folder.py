"""A state folder has one process; the second is told so, and a killed one leaves nothing to clear away."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.cli import cli as aggregator
from crypto.errors import InputError
from silo_agent.cli import cli as silo_agent
from silo_agent.config import AgentConfig
from silo_agent.host.owned_folder import LOCK_FILE, owned_folder
from silo_agent.settings.layered_config import config_file
from support.commands import run

HOLD = """import sys, time; from pathlib import Path; from silo_agent.host.owned_folder import owned_folder
with owned_folder(Path(sys.argv[1])): print("held", flush=True); time.sleep(600)"""


def test_a_folder_is_made_and_free_again_when_its_owner_has_ended(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    for _ in range(2):
        with owned_folder(state):
            assert state.stat().st_mode & 0o777 == 0o700
            with pytest.raises(InputError, match=rf"^{state}: another process works on this"), owned_folder(state):
                pass
    assert [file.name for file in state.iterdir()] == [LOCK_FILE]


def test_a_killed_owner_holds_nothing(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert owner.stdout
    assert owner.stdout.readline() == b"held\n"
    with pytest.raises(InputError), owned_folder(tmp_path):
        pass
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait(60)
    owner.stdout.close()
    with owned_folder(tmp_path):
        pass


def test_a_second_aggregator_or_agent_on_one_state_folder_is_refused_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "aggregator.yaml").write_text("public_address: localhost:1\nmodel: dense\nstate: state\n")
    agent = AgentConfig.beside("a", "localhost:1", tmp_path, tmp_path / "a.txt")
    (tmp_path / "agent.yaml").write_text(config_file(agent))
    with owned_folder(tmp_path / "state"):
        for program, command, file in ((aggregator, "serve", "aggregator.yaml"), (silo_agent, "run", "agent.yaml")):
            second = run(program, [command, "--config", tmp_path / file], capsys)
            assert (second.code, second.out) == (4, "")
            assert "another process works on this state folder (end that one first" in second.err
