"""`aggregator rounds show` names whom a phase waits for; a silo that is revoked is not waited for."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.cli import cli
from aggregator.silos.enrolments import Enrolled
from crypto.names import Phase
from support.commands import run
from support.served import SILENT, Served
from support.simulated_time import SeededLoop

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.clause("4.13", "4.14")
def test_who_is_awaited_is_shown_and_after_revocation_not_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(tmp_path)
    plan = served.submit()
    name = plan.digest.hex()[:16]
    enrolled = [Enrolled(silo, plan.signing_key(silo), bytes(32), NOW, None) for silo in plan.silos]
    monkeypatch.setattr(served.enrolments, "silos", lambda: enrolled)

    async def story() -> float:
        carrying_out = asyncio.create_task(served.work.go_on())
        driven = served.silos(plan)
        parts = {
            silo: asyncio.create_task(driven.take_part(silo, Phase.UPLOAD if silo == SILENT else Phase.DONE))
            for silo in plan.silos
        }
        await parts[SILENT]
        await asyncio.sleep(plan.message.phase_seconds * 0.6)
        shown = run(cli, ["rounds", "show", name, "--config", served.file], capsys)
        assert shown.code == 0, shown.err
        said = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
        assert (said["phase"], said["arrived"], said["awaited"], said["late"]) == ("upload", "3 of 4", SILENT, SILENT)
        waiting = run(cli, ["rounds", "show", name, "--config", served.file, "--output", "json"], capsys).data[
            "waiting"
        ]
        until, since = (datetime.fromisoformat(waiting[field]) for field in ("until", "since"))
        assert (until - since).total_seconds() >= plan.message.phase_seconds
        began = asyncio.get_running_loop().time()
        enrolled[3] = Enrolled(SILENT, plan.signing_key(SILENT), bytes(32), NOW, NOW)
        while not served.runs.find(name).is_over:
            await asyncio.sleep(0.1)
        carrying_out.cancel()
        await asyncio.gather(*parts.values())
        return asyncio.get_running_loop().time() - began

    with asyncio.Runner(loop_factory=lambda: SeededLoop(random.Random(0))) as runner:
        seconds = runner.run(story())
    assert seconds < 10
    ended = served.runs.find(name)
    assert (ended.status, ended.survivors, ended.waiting) == ("done", 3, "")
