"""A silo's certificate expires in the middle of a round, in whichever phase: it is told so, and the round goes on.

In COIN nobody can be missing: there the round is aborted, and says whom it waited for.
"""

import asyncio
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from aggregator.edge import callers
from aggregator.edge.servicer import serve
from aggregator.rounds.closed_round import ClosedRound
from aggregator.silos.admission import known
from crypto.backends.double_masking.phases import TABLE
from crypto.errors import IdentityError, RoundAborted
from crypto.identity import Authority
from crypto.names import Phase
from silo_agent.host.metrics import SiloMetrics
from silo_agent.network.transport import Transport
from support.driven import Driven, plan

EXPIRES: Final = "silo-001"
HOUR: Final = timedelta(hours=1)
PHASES: Final = tuple(TABLE)
FEW: Final = (Phase.UPLOAD, Phase.COIN)
"""In which it is tried every time; in the others where there is time."""


class Served:
    """A driver behind its servicer, and silos that call it over mutual TLS. An hour passes when `phase` begins."""

    def __init__(self, phase: Phase, folder: Path) -> None:
        self.driven, self._phase, self._begins = (
            Driven(plan(4, seconds=2, threshold=3), folder),
            phase,
            datetime.now(UTC),
        )
        self._authority = Authority("test", self._begins, 30 * HOUR)

    async def run(self) -> tuple[ClosedRound | BaseException, dict[str, BaseException | None]]:
        """What came of the round, and by silo what ended its part in it early."""
        authority, silos = self._authority, self.driven.round.silos
        own = authority.issue("aggregator", ("127.0.0.1",))
        admit = known(silos, self._clock)
        server, port = await serve(self.driven.driver, admit, "127.0.0.1:0", lambda: (own, authority.certificate))
        running = self.driven.driver.run(self.driven.round, self.driven.folder)
        taking_part = [asyncio.to_thread(self._take_part, silo, f"127.0.0.1:{port}") for silo in silos]
        closed, *ended = await asyncio.gather(running, *taking_part, return_exceptions=True)
        await server.stop()
        return closed, dict(zip(silos, ended, strict=True))

    def _clock(self) -> datetime:
        return self._begins + (HOUR if self._phase in {phase for phase, *_ in self.driven.watched} else 0 * HOUR)

    def _take_part(self, silo: str, address: str) -> None:
        own = self._authority.issue(silo, lifetime=HOUR / 2 if silo == EXPIRES else None)
        calls, metrics, answer = self.driven._one_round(silo), SiloMetrics(CollectorRegistry()), None
        with closing(Transport(address, own, self._authority.certificate, metrics)) as transport:
            transport.next()
            with suppress(StopIteration):
                while True:
                    answer = transport.perform(calls.send(answer))


@pytest.mark.clause("7.1")
@pytest.mark.parametrize(
    "phase", [pytest.param(phase, marks=() if phase in FEW else pytest.mark.slow) for phase in PHASES]
)
def test_in_whichever_phase(phase: Phase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "ADMITTED_SECONDS", 0.0)
    served = Served(phase, tmp_path)
    closed, ended = asyncio.run(served.run())
    refused = ended.pop(EXPIRES)
    assert isinstance(refused, IdentityError), refused
    assert f"the certificate of '{EXPIRES}' expired" in f"{refused}"
    if phase is Phase.COIN:
        assert isinstance(closed, RoundAborted), closed
        assert f"dropped: {EXPIRES} in coin" in f"{closed}"
        assert all(isinstance(error, RoundAborted) for error in ended.values()), ended
        return
    assert isinstance(closed, ClosedRound), closed
    assert set(ended.values()) == {None}
    assert closed.dropped == {EXPIRES: phase}
    has_uploaded = PHASES.index(phase) > PHASES.index(Phase.UPLOAD)
    assert set(closed.survivors) == set(served.driven.round.silos) - (set() if has_uploaded else {EXPIRES})
