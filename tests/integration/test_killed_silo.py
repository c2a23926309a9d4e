"""A silo's process is killed while it uploads."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aggregator.local_agents import LocalAgents
from aggregator.rounds.spool import Spool
from crypto.identity import Authority
from silo_agent.config import AgentConfig
from sparsilo.v1 import words_pb2
from support.commands import local, prune
from support.models import tiny_llama, write_text

SHAPE = ("--samples", 4, "--sequence-length", 32, "--sparsity-ratio", "0.5")


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Silos whose processes get SIGKILL when the first chunk of theirs arrives."""
    victims: set[str] = set()
    started: list[LocalAgents] = []
    start, take = LocalAgents.start, Spool.take

    async def remember(self: LocalAgents, config: AgentConfig, authority: Authority) -> None:
        started.append(self)
        await start(self, config, authority)

    def take_and_kill(self: Spool, stream: int, message: words_pb2.WordChunk) -> None:
        take(self, stream, message)
        if self._silo in victims:
            os.kill(started[-1].processes[self._silo].pid, signal.SIGKILL)

    monkeypatch.setattr(LocalAgents, "start", remember)
    monkeypatch.setattr(Spool, "take", take_and_kill)
    return victims


def test_the_run_completes_exactly_over_the_others(
    kill: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "dense")
    files = [write_text(tmp_path / f"{name}.txt", 900, seed=at) for at, name in enumerate(["a", "b", "c", "d"])]
    kill.add("b")
    ran = local(model, files, tmp_path / "out", capsys, *SHAPE, "--save-counts")
    assert ran.code == 0
    assert ran.data["survivors"] == ["a", "c", "d"]
    assert ran.data["dropped"] == {"b": "upload"}
    counts = load_file(tmp_path / "out" / "keep_counts.safetensors")
    totals = {name: torch.zeros_like(count) for name, count in counts.items()}
    for file in (files[0], files[2], files[3]):
        assert prune(model, file, tmp_path / f"{file.stem}.safetensors", capsys, *SHAPE).code == 0
        for name, mask in load_file(tmp_path / f"{file.stem}.safetensors").items():
            totals[name] += mask
    assert all(torch.equal(counts[name], totals[name]) for name in counts)


@pytest.mark.slow
def test_below_the_threshold_it_aborts_and_names_the_phase(
    kill: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "dense")
    files = [write_text(tmp_path / f"{name}.txt", 900, seed=at) for at, name in enumerate(["a", "b", "c", "d"])]
    kill |= {"b", "d"}
    ran = local(model, files, tmp_path / "out", capsys, *SHAPE)
    assert ran.code == 1
    # the phase ends with the second one's end, whoever of the others has answered by then
    assert re.match(
        r"error: phase upload: [012] of 4 silos answered and 3 are needed \(dropped: .*b in upload", ran.err
    )
    assert "d in upload, its process has ended" in ran.err
    assert ran.err.count("\n") == 1
    assert json.loads(ran.out)["error"]["code"] == "too_few_survivors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt", "d.txt", "dense"]
