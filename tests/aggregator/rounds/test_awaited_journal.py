"""A journal on a disk that takes its time: events are in order, none is lost, and only who noted one waits."""

import asyncio
from pathlib import Path
from threading import Event as Gate

import pytest

from aggregator.rounds.awaited_journal import AwaitedJournal
from aggregator.rounds.journal import SPOKE, Event
from aggregator.rounds.sqlite_journal import SqliteJournal
from crypto.names import Phase
from support.driven import Driven, plan

A, B, C = "silo-000", "silo-001", "silo-002"


class FakeSlowJournal:
    """Waits at the event of silo A; fails at that of silo C."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.go_on = Gate()

    def note(self, kind: str, silo: str, data: bytes) -> None:
        if silo == A:
            assert self.go_on.wait(60)
        if silo == C:
            raise OSError("full")
        self.noted.append(silo)

    def events(self) -> list[Event]:
        return [(SPOKE, silo, b"") for silo in self.noted]

    def close(self, *, is_over: bool = False) -> None:
        self.noted.append("over" if is_over else "closed")


def test_who_is_cancelled_leaves_the_event_and_later_ones_come_after_it() -> None:
    async def work() -> None:
        slow = FakeSlowJournal()
        journal = AwaitedJournal(slow)
        gone = asyncio.ensure_future(journal.note(SPOKE, A, b""))
        later = [asyncio.ensure_future(journal.note(SPOKE, silo, b"")) for silo in (B, "silo-003")]
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert slow.noted == []
        slow.go_on.set()
        await asyncio.gather(*later)
        assert slow.noted == [A, B, "silo-003"]
        assert [silo for _, silo, _ in await journal.events()] == slow.noted
        await journal.close(is_over=True)
        assert slow.noted[-1] == "over"

    asyncio.run(asyncio.wait_for(work(), 60))


def test_behind_an_event_that_cannot_be_noted_there_is_none() -> None:
    """A restarted aggregator would take what follows it for what happened next."""

    async def work() -> None:
        slow = FakeSlowJournal()
        journal = AwaitedJournal(slow)
        await journal.note(SPOKE, B, b"")
        ended = await asyncio.gather(*(journal.note(SPOKE, silo, b"") for silo in (C, B)), return_exceptions=True)
        assert [str(end) for end in ended] == ["full", "full"]
        assert slow.noted == [B]
        await journal.close()

    asyncio.run(asyncio.wait_for(work(), 60))


def test_while_the_disk_takes_its_time_other_silos_are_heard_and_nobody_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, note = Gate(), SqliteJournal.note

    def slow(journal: SqliteJournal, kind: str, silo: str, data: bytes) -> None:
        assert silo != A or go_on.wait(60)
        note(journal, kind, silo, data)

    async def work() -> None:
        monkeypatch.setattr(SqliteJournal, "note", slow)
        driven = Driven(plan(3), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        first = asyncio.create_task(driven.take_part(A))
        while not (driven.has_begun(driven.round) and driven.session.arrived):
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(driven.take_part(silo)) for silo in (B, C)]
        while driven.session.phase is Phase.PLAN:  # until all three were heard
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert {driven.silos[silo].phase for silo in (A, B, C)} == {Phase.PLAN}
        go_on.set()
        await asyncio.gather(first, *others)
        assert (await running).survivors == (A, B, C)

    asyncio.run(asyncio.wait_for(work(), 60))
