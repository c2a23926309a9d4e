"""An evaluation that is aborted, in whichever phase, leaves the model, and a report that says so."""

import json
import os
import signal
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from aggregator.local_agents import LocalAgents
from aggregator.rounds.round_driver import RoundDriver
from aggregator.rounds.running_round import RunningRound
from crypto.backends.double_masking.phases import TABLE
from crypto.identity import Authority
from crypto.names import Phase, ReleaseKind
from silo_agent.config import AgentConfig
from support.commands import local
from support.models import tiny_llama, write_text

SHAPE = ("--samples", 4, "--sequence-length", 32, "--sparsity-ratio", "0.5")
PHASES = [pytest.param(phase, marks=() if phase is Phase.UPLOAD else pytest.mark.slow) for phase in TABLE]


@pytest.fixture
def kill_in(monkeypatch: pytest.MonkeyPatch) -> list[Phase]:
    """In these phases of an evaluation one silo gets SIGKILL."""
    phases: list[Phase] = []
    started: list[LocalAgents] = []
    start, run_phase = LocalAgents.start, RoundDriver._run_phase

    async def remember(self: LocalAgents, config: AgentConfig, authority: Authority) -> None:
        started.append(self)
        await start(self, config, authority)

    async def kill_and_run(self: RoundDriver, running: RunningRound) -> None:
        if running.release_kind == ReleaseKind.EVALUATION and running.session.phase in phases:
            process = started[-1].processes["ward-1"]
            os.kill(process.pid, signal.SIGKILL)
        await run_phase(self, running)

    monkeypatch.setattr(LocalAgents, "start", remember)
    monkeypatch.setattr(RoundDriver, "_run_phase", kill_and_run)
    return phases


@pytest.mark.parametrize("phase", PHASES)
def test_it_leaves_the_model_and_a_report_without_perplexities(
    phase: Phase,
    kill_in: list[Phase],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    kill_in.append(phase)
    model = tiny_llama(tmp_path / "dense")
    files = [write_text(tmp_path / f"ward-{at}.txt", 1200, seed=at) for at in range(3)]
    out = tmp_path / "out"
    ran = local(model, files, out, capsys, *SHAPE, "--evaluate", 1)
    assert ran.code == 0, ran.err
    assert "the evaluation failed, and the result stands without it" in caplog.text
    report = json.loads((out / "report.json").read_text())
    assert report == ran.data
    assert "perplexity" not in report
    assert report["not_evaluated"] in ("too_few_survivors", "round_aborted")
    assert "The evaluation failed" in (out / "report.html").read_text()
    assert report["survivors"] == ["ward-0", "ward-1", "ward-2"]
    assert AutoModelForCausalLM.from_pretrained(out / "model").num_parameters() > 0
