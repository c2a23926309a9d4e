"""`aggregator rounds cancel`: heard in every phase within seconds, silos told why, and the next run carried out."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.cli import cli
from aggregator.serve import CANCELLED
from crypto.backends.double_masking.phases import TABLE
from crypto.errors import RoundAborted
from crypto.names import Phase
from support.commands import run
from support.served import SILENT, Served
from support.simulated_time import SeededLoop

HEARD = 5.0
"""Seconds within which a cancelled run has to be over."""


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


@pytest.mark.parametrize("phase", TABLE)
def test_a_run_is_cancelled_in_every_phase_and_the_next_one_goes_on(
    phase: Phase, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    cancelled = served.submit()

    async def story() -> None:
        carrying_out = asyncio.create_task(served.work.go_on())
        driven = served.silos(cancelled)
        parts = {
            silo: asyncio.create_task(driven.take_part(silo, phase if silo == SILENT else Phase.DONE))
            for silo in cancelled.silos
        }
        await parts[SILENT]  # and now the phase waits for it
        await asyncio.sleep(2)
        assert served.runs.find(cancelled.digest.hex()[:16]).phase == phase
        asked = run(cli, ["rounds", "cancel", cancelled.digest.hex()[:16], "--config", served.file], capsys)
        assert asked.code == 0, asked.err
        async with asyncio.timeout(HEARD):
            while not served.runs.find(cancelled.digest.hex()[:16]).is_over:
                await asyncio.sleep(0.1)
            told = await asyncio.gather(*parts.values(), return_exceptions=True)
        assert [str(error) for error in told if error] == [f"{phase}: {CANCELLED}"] * 3
        with pytest.raises(RoundAborted, match=CANCELLED):  # who was at something else is told when it comes back
            await driven.step(SILENT)
        following = served.submit()
        again = served.silos(following)
        await asyncio.gather(*map(again.take_part, following.silos))
        while not served.runs.find(following.digest.hex()[:16]).is_over:
            await asyncio.sleep(0.1)
        carrying_out.cancel()

    with asyncio.Runner(loop_factory=lambda: SeededLoop(random.Random(0))) as runner:
        runner.run(story())
    ended, done = served.runs.all()
    assert (ended.status, ended.said != "", done.status, done.survivors) == ("cancelled", True, "done", 4)
    assert sorted(file.name for file in served.runs.folder(ended.run).path.iterdir()) == ["plan", "plan.yaml"]
    assert served.registry.get_sample_value("sparsilo_aggregator_runs_total", {"outcome": "cancelled"}) == 1


def test_a_run_that_waits_is_cancelled_at_once_and_one_that_is_over_never(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    name = served.submit().digest.hex()[:16]
    cancelled = run(cli, ["rounds", "cancel", name, "--config", served.file, "--output", "json"], capsys)
    assert (cancelled.code, cancelled.data["status"]) == (0, "cancelled")
    assert served.runs.next() is None
    again = run(cli, ["rounds", "cancel", name, "--config", served.file], capsys)
    assert (again.code, "is cancelled already" in again.err) == (4, True)
    waited = run(cli, ["rounds", "wait", name, "--config", served.file], capsys)
    assert (waited.code, f"{name}: cancelled: " in waited.err) == (1, True)


def test_a_stopped_aggregator_hears_of_it_when_it_is_started_again(served: Served) -> None:
    name = served.submit().digest.hex()[:16]
    served.runs.begin(name)
    served.runs.cancel(name, "eva", datetime.now(UTC))
    assert served.runs.find(name).status == "running"  # somebody has to tell the silos

    async def story() -> None:
        await served.work.take_up()
        carrying_out = asyncio.create_task(served.work.go_on())
        await asyncio.sleep(HEARD)
        carrying_out.cancel()

    with asyncio.Runner(loop_factory=lambda: SeededLoop(random.Random(0))) as runner:
        runner.run(story())
    ended = served.runs.find(name)
    assert (ended.status, ended.said) == ("cancelled", "eva")
