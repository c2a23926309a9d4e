"""An aggregator that is killed: from whatever was on disk just then, the next one gives the same answers and sum."""

import asyncio
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.closed_round import CLOSED_FILE
from aggregator.rounds.journal import Event, OpenJournal
from aggregator.rounds.round_driver import RoundDriver
from aggregator.rounds.spool import Spool
from aggregator.rounds.sqlite_journal import JOURNAL_FILE, SqliteJournal
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import DiskFailed, InputError, UnexpectedMessage
from crypto.names import Backend, Phase
from crypto.secagg.round import Round
from scenarios.world import World, plain_sum
from silo_agent.host.sqlite_file import transaction
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FILE
from sparsilo.v1 import words_pb2
from support.driven import Driven, held_of, iterate, listed, plan
from support.plans import signing_keys

A, B, C, D = (f"silo-{index:03d}" for index in range(4))


def new_driver(open_journal: OpenJournal = SqliteJournal) -> RoundDriver:
    return RoundDriver(AggregatorMetrics(CollectorRegistry()), lambda *_: None, open_journal=open_journal)


def begun(round_: Round, folder: Path) -> tuple[RoundDriver, asyncio.Task[Any]]:
    driver = new_driver()
    return driver, asyncio.create_task(driver.run(round_, folder))


@dataclass
class Killed:
    """What there was when an aggregator was killed."""

    folder: Path
    events: list[Event]
    came_back: dict[str, int]
    """How many of each silo's calls had come back."""


class Recorded(Driven):
    """A round in which D is lost in UPLOAD; its folder is copied each time that something new is on disk."""

    def __init__(self, backend: Backend, folder: Path, open_journal: OpenJournal) -> None:
        super().__init__(plan(4, threshold=3, backend=backend), folder / "round")
        self.driver, self.open_journal = new_driver(open_journal), open_journal
        self.done: dict[str, list[tuple[Call, list[bytes]]]] = defaultdict(list)
        """Each silo's finished calls and what they carried: an answer, uploaded chunks, or committed ones."""
        self.killed: list[Killed] = []
        self.noted: list[Event] = []

    def copying(self, write: Callable[..., None]) -> Callable[..., None]:
        def write_and_copy(*arguments: object) -> None:
            write(*arguments)
            if len(arguments) == 4:  # a journal and an event
                self.noted.append(arguments[1:])  # type: ignore[arg-type]
            folder = self.folder.with_name(f"killed-{len(self.killed)}")
            shutil.copytree(self.folder, folder, ignore=lambda *_: ["agents"])
            for file in folder.glob("*.words"):
                if file.stat().st_size < 8 * self.round.layout.total_words:
                    file.write_bytes(file.read_bytes() + b"torn")  # of the chunk that was being written
            came_back = {silo: len(calls) for silo, calls in self.done.items()}
            self.killed.append(Killed(folder, [*self.noted], came_back))

        return write_and_copy

    async def perform(self, silo: str, call: Call) -> bytes | None:
        match call:
            case Upload(_, chunks):
                data = list(chunks(0))
                answer = await super().perform(silo, call)
            case Advance():
                answer = await super().perform(silo, call)
                data = [answer or b""]
            case Committed(request, take):
                data = await committed(self.driver, silo, request)
                answer = take(data)
        self.done[silo].append((call, data))
        return answer

    async def lost_in_upload(self) -> None:
        async def two(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
            yield next(chunks)
            yield next(chunks)
            raise ConnectionError

        await self.take_part(D, Phase.UPLOAD)
        with suppress(ConnectionError):
            await self.driver.upload(D, two(self.chunks(D)))
        await self.driver.gone(D)

    async def repeat(self, killed: Killed) -> None:
        """The same silos before a new aggregator on what the killed one left, whom they call while it starts."""
        driver, folder, came_back = new_driver(self.open_journal), killed.folder, killed.came_back
        if self.open_journal is not SqliteJournal:  # it is in no folder: bring it back to that moment
            self.open_journal(folder, self.round.digest).close(is_over=True)
            journal = self.open_journal(folder, self.round.digest)
            for event in killed.events:
                journal.note(*event)
            journal.close()

        async def once_more(silo: str) -> None:
            for at, (call, data) in enumerate(self.done[silo]):
                last = min(came_back.get(silo, 0), len(self.done[silo]) - 1)
                match call:
                    case Advance(message) if at >= last:  # its answer may have been lost on its way
                        assert await driver.advance(silo, message) == data[0]
                    case Upload() if at >= came_back.get(silo, 0):
                        held = await held_of(driver, silo, self.round.digest)
                        await driver.upload(silo, iterate(iter(data[held:])))
                    case Committed(request) if at >= came_back.get(silo, 0):
                        assert await committed(driver, silo, request) == data
            if silo == D:
                await driver.gone(D)

        async with asyncio.timeout(300):
            is_over = (folder / CLOSED_FILE).exists()  # then only who came to the end has an answer to ask for
            calling = asyncio.gather(*map(once_more, (A, B, C) if is_over else self.silos))
            await asyncio.sleep(0)
            closed = await driver.run(self.round, folder)
            await calling
        assert closed.survivors == (A, B, C)
        assert (folder / TRANSCRIPT_FILE).read_bytes() == encode(self.session.transcript)
        assert (folder / SUM_FILE).read_bytes() == (self.folder / SUM_FILE).read_bytes()


async def committed(driver: RoundDriver, silo: str, request: Callable[[int], bytes]) -> list[bytes]:
    asked = decode(words_pb2.CommittedRequest, request(0), MESSAGE_LIMIT)
    return await listed(driver.committed(silo, asked.round, asked.index))


@pytest.mark.parametrize("backend", list(Backend))
def test_a_round_goes_on_from_wherever_the_aggregator_was_killed(
    backend: Backend, open_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: Any = getattr(open_journal, "func", open_journal)  # its class

    async def work() -> None:
        recorded = Recorded(backend, tmp_path, open_journal)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "note", recorded.copying(journal.note))
            patch.setattr(Spool, "take", recorded.copying(Spool.take))
            running = asyncio.create_task(recorded.driver.run(recorded.round, recorded.folder))
            await asyncio.gather(*map(recorded.take_part, (A, B, C)), recorded.lost_in_upload())
        sections: dict[str, list[int]] = defaultdict(list)
        for chunk, values in (await running).opened.chunks():
            sections[chunk.section.name] += values.tolist()
        assert sections == plain_sum(recorded.lanes, (A, B, C))
        before, after = (3, 6) if backend is Backend.DOUBLE_MASKING else (1, 1)  # UPLOAD, which is one of the later
        words = 3 * len(recorded.round.layout.chunks) + 2
        begun = 1 if open_journal is SqliteJournal else 0  # the row that says whose file it is
        assert len(recorded.killed) == begun + before * (4 + 1) + words + 3 + after * (3 + 1)
        middle = recorded.killed.pop(len(recorded.killed) // 2)
        await recorded.repeat(middle)
        again = {silo: len(calls) for silo, calls in recorded.done.items()}
        await recorded.repeat(Killed(middle.folder, recorded.noted, again))  # killed again
        monkeypatch.setattr(SqliteJournal, "note", lambda *_: None)  # which takes its time, and is not read any more
        for moment in recorded.killed:
            await recorded.repeat(moment)

    asyncio.run(asyncio.wait_for(work(), 300))


def test_a_silo_is_held_to_what_it_told_the_killed_aggregator(tmp_path: Path) -> None:
    async def work() -> None:
        agreed = Round(plan(3), 0, b"")
        honest, other = (World(agreed.plan, signing_keys(3)).silos[A] for _ in range(2))
        driver, running = begun(agreed, tmp_path)
        await driver.next(A)
        said = asyncio.create_task(driver.advance(A, honest.message()))
        while not (driver._round and await driver._round.journal.events()):
            await asyncio.sleep(0)
        again, resumed = begun(agreed, tmp_path)  # the first one is stuck from now on, as if it were killed
        await again.next(B)
        with pytest.raises(UnexpectedMessage, match=r"^silo-000: spoke twice in phase plan, differently"):
            await again.advance(A, other.message())
        for task in (said, running, resumed):
            task.cancel()

    asyncio.run(asyncio.wait_for(work(), 300))


@pytest.mark.parametrize("call", ["advance", "held", "upload", "committed"])
def test_who_waits_for_a_round_that_never_begins_is_told(call: str) -> None:
    async def work() -> None:
        driver = RoundDriver(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
        calls = {
            "advance": lambda: driver.advance(A, b""),
            "held": lambda: driver.held(A, bytes(32)),
            "upload": lambda: driver.upload(A, iterate(iter([]))),
            "committed": lambda: listed(driver.committed(A, bytes(32), 0)),
        }
        waiting = asyncio.ensure_future(calls[call]())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await driver.finish()
        with pytest.raises(UnexpectedMessage, match=f"{A}: no round has begun"):
            await waiting

    asyncio.run(asyncio.wait_for(work(), 300))


def test_a_folder_with_another_rounds_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    async def work() -> None:
        driver, first = begun(Round(plan(3), 0, b""), tmp_path)
        await driver.next(A)
        first.cancel()
        await asyncio.wait([first])
        before = (tmp_path / "journal.sqlite").read_bytes()
        for other in (Round(plan(3, run=b"another run of 3"), 0, b""), Round(plan(3), 0, bytes(32))):
            _, refused = begun(other, tmp_path)
            with pytest.raises(InputError, match=r"journal\.sqlite: is the journal of another round"):
                await refused
        assert (tmp_path / "journal.sqlite").read_bytes() == before

    asyncio.run(asyncio.wait_for(work(), 300))


@pytest.mark.parametrize(
    ("file", "problem"), [(f"{A}.words", "is not what was written"), ("journal", "cannot be repeated")]
)
def test_what_the_disk_changed_of_a_round_under_way_is_named(file: str, problem: str, tmp_path: Path) -> None:
    """And the same round goes on once the disk has it again."""

    async def work() -> None:
        recorded = Recorded(Backend.DOUBLE_MASKING, tmp_path, SqliteJournal)
        running = asyncio.create_task(recorded.driver.run(recorded.round, recorded.folder))
        silos = [asyncio.create_task(recorded.take_part(silo, Phase.UNMASK)) for silo in (A, B, C)]
        await recorded.lost_in_upload()
        await asyncio.gather(*silos)
        running.cancel()
        await asyncio.wait([running])
        if file == "journal":
            with transaction(recorded.folder / JOURNAL_FILE) as database:
                change = "UPDATE events SET data = substr(data, 1, 40) WHERE rowid = 3"
                database.execute(change)
        else:
            words = bytearray((recorded.folder / file).read_bytes())
            words[9] ^= 1
            (recorded.folder / file).write_bytes(words)
        with pytest.raises(DiskFailed, match=f"{recorded.folder}.*{problem}"):
            await new_driver().run(recorded.round, recorded.folder)

    asyncio.run(asyncio.wait_for(work(), 300))
