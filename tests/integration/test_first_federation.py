"""docs/operations.md, "A first federation, step by step": every command of it, in order, by a real shell.

It runs on a copy of what it needs of the repository, and on a free port.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from silo_agent.checkpoint.tensor_files import read_tensor_file
from silo_agent.cli import cli
from support.commands import run

ROOT = Path(__file__).parent.parent.parent
SECTION = "## A first federation, step by step"
SCRIPT_SECONDS = 1200


def commands() -> list[str]:
    """The indented lines of the section."""
    _, _, rest = (ROOT / "docs" / "operations.md").read_text().partition(SECTION)
    return [line.strip() for line in rest.partition("\n## ")[0].splitlines() if line.startswith("    ")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_the_section_has_every_step() -> None:
    text = "\n".join(commands())
    for step in ("aggregator serve", "invite", "enroll", "roster pin", "preflight", "silo-agent run", "plan submit"):
        assert step in text
    for step in ("pending", "approve", "rounds wait", "result/model", "ledger", "audit verify", "silo-agent verify"):
        assert step in text
    for step in ("result list", "result fetch", "--model", "result export"):
        assert step in text


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        [byte] = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("docs", "bench/demo/model", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for program in ("aggregator", "silo-agent"):
        (binaries / program).symlink_to(Path(sys.executable).parent / program)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_newcomers_path(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    script = "\n".join(
        ["set -eu", f"export SPARSILO_ADDRESS=127.0.0.1:{port}"]
        + [line.replace("localhost:8443", f"localhost:{port}") for line in commands()]
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(repository), "OMP_NUM_THREADS": "1"}
    shell = subprocess.Popen(
        ["bash", "-c", script],  # noqa: S607
        cwd=repository,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=SCRIPT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        said, _ = shell.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
    assert shell.returncode == 0, said[-4000:]
    [result] = repository.glob("first/state/runs/*/result")
    report = json.loads((result / "report.json").read_text())
    assert report["survivors"] == ["a", "b", "c"]
    assert report["dropped"] == {}
    assert report["sparsity_ratio"]["achieved"] == pytest.approx(0.5, abs=1e-4)
    assert AutoModelForCausalLM.from_pretrained(result / "model").num_parameters() > 1e6
    for silo in "abc":
        [own] = repository.glob(f"first/{silo}/results/*")
        assert AutoModelForCausalLM.from_pretrained(own / "model").num_parameters() > 1e6
        assert (own / "model/model.safetensors").read_bytes() == (result / "model/model.safetensors").read_bytes()
        weights = own / "model/model.safetensors"
        tensor, stored = next(iter(read_tensor_file(weights).tensors.items()))
        flip(weights, stored.start)
        given = ["--roster", repository / f"first/{silo}/roster.yaml", "--dense", repository / "bench/demo/model"]
        altered = run(cli, ["verify", own, "--signatures-only", "--model", own / "model", *given], capsys)
        assert (altered.code, f"{weights}: tensor {tensor}: is not what" in altered.err) == (1, True)
    assert (repository / "first/exported/manifest.json").exists()
    events = [json.loads(line)["event"] for line in (repository / "first/a/state/audit.jsonl").read_text().splitlines()]
    assert events[:4] == ["enrolled", "roster_pinned", "plan_offered", "approved"]
    assert events[4:] == ["release", "round_done"] * len(report["rounds"])
    assert re.search(r"epsilon", said, re.IGNORECASE)
    assert "PRIVATE KEY" not in said
