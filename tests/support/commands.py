"""The command lines as a user runs them: arguments in, exit code, stdout and stderr out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from aggregator.cli import cli as aggregator
from silo_agent.cli import cli as silo_agent
from silo_agent.host.terminal import run_command


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)["data"]


def run(command: click.Command, arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> Ran:
    """In this process, through the same edge as the console script."""
    capsys.readouterr()  # what was printed before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_command(command)
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, captured.out, captured.err)


def local(
    model: Path, calibration: Sequence[Path], out: Path, capsys: pytest.CaptureFixture[str], *more: object
) -> Ran:
    """`aggregator local`, of votes unless another release is named."""
    release = () if "--release" in more else ("--release", "votes")
    files = [word for file in calibration for word in ("--calibration", file)]
    arguments = ["local", "--model", model, *files, "--out", out, "--output", "json", *release, *more]
    return run(aggregator, arguments, capsys)


def prune(model: Path, calibration: Path | str, out: Path, capsys: pytest.CaptureFixture[str], *more: object) -> Ran:
    """`silo-agent prune`."""
    arguments = ["prune", "--model", model, "--calibration", calibration, "--out", out, *more]
    return run(silo_agent, arguments, capsys)
