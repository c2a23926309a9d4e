"""The aggregator's driver: one round at a time over the silos that call in. Owns the clock, the disk and retries; no
cryptography.

Silos call, the aggregator never dials. A call waits here until its phase closes: when everybody expected has spoken, or
has had the time that the plan gives (aggregator/rounds/phase_clock). Whatever was answered is answered again to the
same bytes, also by an aggregator that was killed and started again (aggregator/rounds/journal).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.awaited_journal import AwaitedJournal
from aggregator.rounds.closed_round import ClosedRound
from aggregator.rounds.journal import CLOSED, SPOKE, UPLOADED, OpenJournal
from aggregator.rounds.offered_files import OfferedFiles
from aggregator.rounds.phase_clock import Waiting
from aggregator.rounds.present_silos import PresentSilos
from aggregator.rounds.running_round import DISK_FAILED, Answers, RunningRound, disk_failed
from aggregator.rounds.sqlite_journal import SqliteJournal
from aggregator.rounds.traffic import CountedTraffic
from aggregator.rounds.withdrawals import Withdrawals
from crypto.encoding.wire import encode
from crypto.errors import DiskFailed, RoundAborted, SparsiloError, UnexpectedMessage
from crypto.names import Phase
from crypto.secagg.round import Round
from sparsilo.v1 import round_pb2, words_pb2

Watch = Callable[[str, int, int], None]
"""What is being waited for, how much of it is there, and how much there is."""

_log = logging.getLogger(__name__)


class RoundDriver:
    """What the servicer calls for silos, and `run()` for whoever wants a round run. Lives in one event loop.

    Whatever silos and `run` share changes under one lock, and whoever changes it wakes all who wait.
    """

    def __init__(
        self, metrics: AggregatorMetrics, watch: Watch, threads: int = 1, open_journal: OpenJournal = SqliteJournal
    ) -> None:
        self.withdrawals: Withdrawals | None = None
        """Where silos' withdrawals outlive this process; None: nobody can withdraw."""
        self.metrics = metrics
        self.present = PresentSilos()
        self.files = OfferedFiles()
        self.traffic = CountedTraffic(metrics)
        self._watch = watch
        self._threads = threads
        self._open_journal = open_journal
        self._changed = asyncio.Condition()
        self._round: RunningRound | None = None
        self._over: round_pb2.Over | None = None
        self._earlier: Answers = {}
        """The last answers of a round that an earlier process closed."""
        self._waking: set[asyncio.Task[None]] = set()

    async def run(self, round_: Round, folder: Path) -> ClosedRound:
        """Run one round; uploads, sum and journal go into `folder`, and a folder with the journal of this round
        continues it.

        A folder that says that the round is over is taken as it is. Raises TooFewSurvivors naming the phase, the
        ProtocolError that ended it, RoundAborted where something could not be written: every waiting silo is told, also
        when the round is cancelled. Raises DiskFailed, or OSError where all is over but that cannot be noted: then
        nobody is told, and the round can be run again in this folder.
        """
        if closed := await asyncio.to_thread(ClosedRound.read, round_, folder):
            async with self._changed:
                self._earlier = closed.last_answers
                self.present.dropped(closed.dropped)
                self._changed.notify_all()
            return closed
        self.metrics.silos.set(len(round_.silos))
        if self.withdrawals is not None:
            await asyncio.to_thread(self.withdrawals.begin, round_)
        running = await self._begin(round_, folder)
        session = running.session
        seconds: dict[Phase, float] = {}
        clock = asyncio.get_running_loop().time
        try:
            while session.phase is not Phase.DONE:
                phase, start = session.phase, clock()
                self.metrics.enter(phase)
                await self._run_phase(running)
                seconds[phase] = clock() - start
            if not running.committed:  # a backend without AUDIT
                with running.on_disk():
                    await running.open_sum()
            closed = await asyncio.to_thread(ClosedRound.of, session, folder, seconds, running.last_answers)
            await running.journal.close(is_over=True)
        except (SparsiloError, asyncio.CancelledError) as error:
            reason = str(error) or "the aggregator ended the run"
            if isinstance(error, SparsiloError):  # else it is stopped, and may go on
                reason = error.message
                self.metrics.rounds.labels(running.release_kind, "failed").inc()
            self.metrics.enter(Phase.ABORTED)
            telling = asyncio.create_task(self._abort(running, reason))
            await asyncio.shield(telling)  # whatever ends this round in the meantime
            if running.disk_failure and isinstance(error, RoundAborted):
                raise running.disk_failure from None
            raise
        finally:
            await running.journal.close()
            self.present.dropped(session.dropped)
            for dropped_in in session.dropped.values():
                self.metrics.dropped.labels(dropped_in).inc()
        if self.withdrawals is not None:
            await asyncio.to_thread(self.withdrawals.done, round_)
        self.metrics.enter(Phase.DONE)
        self.metrics.rounds.labels(running.release_kind, "done").inc()
        self.metrics.survivors.set(len(session.survivors))
        return closed

    @property
    def waiting(self) -> Waiting | None:
        """Whom the present phase waits for at this moment; None where there is none."""
        is_open = self._round and self._round.session.phase not in (Phase.DONE, Phase.ABORTED)
        return self._round.clock.waiting() if self._round and is_open else None

    async def finish(self, failure: str = "") -> None:
        """Tell every silo that asks for more that there is none; what was said first stands."""
        async with self._changed:
            self._over = self._over or round_pb2.Over(failure=failure)
            self._changed.notify_all()

    async def gone(self, silo: str, why: str = "its process has ended") -> None:
        """A silo is known to be gone: nobody waits for it any more."""
        self.present.gone(silo, why)
        await self._wake()

    # What silos call.

    async def next(self, silo: str) -> bytes:
        """Return the encoded Offer of the round that now needs this silo, or of the end of everything; wait for
        either.
        """
        async with self._changed:
            self.present.asked(silo)
            while (offer := self._offer(silo)) is None:
                await self._changed.wait()
        return encode(offer)

    async def decline(self, silo: str, round_digest: bytes, reason: str) -> None:
        """A silo will not take part in a round that it was offered. Raises UnexpectedMessage for another round."""
        async with self._changed:
            running = await self._begun(silo)
            session = running.session
            if session.round.digest != round_digest or silo not in session.round.silos:
                raise UnexpectedMessage("declines a round that is not its own", party=silo)
            if not self.present.may_begin(silo, session):
                return
            self.present.declined(silo, session)
            _log.warning("%s: declines the %s round: %s", silo, running.release_kind, reason)
            self.metrics.declined.labels(running.release_kind).inc()
            self._changed.notify_all()

    async def advance(self, silo: str, data: bytes) -> bytes:
        """A silo's message of the present phase; returns the answer once the phase has closed.

        Raises the ProtocolError that the message deserves, or RoundAborted where it could not be written.
        """
        digest = sha256(data).digest()
        async with self._changed:
            await self._changed.wait_for(lambda: (silo, digest) in self._earlier or self._round or self._over)
            if (silo, digest) in self._earlier:
                return self._earlier[silo, digest]
            running = await self._begun(silo)
            if (silo, digest) in running.answers:
                return running.answers[silo, digest]
            noting = None
            if not running.waits_on(silo, digest):  # asking again is no arrival
                running.receive(silo, data)
                noting = running.note(SPOKE, silo, data)
                self._changed.notify_all()
        if noting is not None:  # while a disk takes its time, other silos are heard
            await noting
        async with self._changed:
            await self._changed.wait_for(lambda: (silo, digest) in running.answers)
            return running.answers[silo, digest]

    async def held(self, silo: str, round_digest: bytes) -> bytes:
        """Return the encoded number of chunks that are held of a silo's upload; earlier streams of it are over.

        Raises UnexpectedMessage where no upload is due any more.
        """
        running = await self._uploading(silo)
        if running.session.round.digest != round_digest:
            raise UnexpectedMessage("asks for its upload of another round", party=silo)
        spool = running.spools[silo]
        spool.start()
        return encode(words_pb2.HeldReply(chunks=spool.held))

    async def upload(self, silo: str, chunks: AsyncIterator[bytes]) -> bytes:
        """Spool a silo's encoded chunks to disk; returns the encoded receipt.

        Raises UnexpectedMessage where no upload is due any more, BadUpload, or RoundAborted where it could not be
        written.
        """
        running = await self._uploading(silo)
        session, spool = running.session, running.spools[silo]
        stream = spool.start()
        async for data in chunks:
            running.check_going_on()
            if session.phase is not Phase.UPLOAD:
                raise UnexpectedMessage("the upload came too late", party=silo)
            with running.on_disk():
                spool.take(stream, data)
            running.clock.brought(silo, len(data))
        with running.on_disk():
            root = await asyncio.to_thread(spool.root)
        if session.phase is not Phase.UPLOAD:  # and the journal may be closed
            raise UnexpectedMessage("the upload ended too late", party=silo)
        session.uploaded(silo, root)
        await running.note(UPLOADED, silo, root)
        return encode(words_pb2.UploadReceipt(chunks=spool.held))

    async def committed(self, silo: str, round_digest: bytes, index: int, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield one chunk of every survivor's upload and of the opened sum, encoded, for an auditor of that chunk; the
        first `offset` of them are left out.

        Raises UnexpectedMessage for anybody else.
        """
        async with self._changed:
            running = await self._begun(silo)
        running.check_going_on()
        if running.session.round.digest != round_digest or not running.session.may_audit(silo, index):
            raise UnexpectedMessage(f"is no auditor of chunk {index}", party=silo)
        for at, words in enumerate(running.committed[offset:], offset):
            with running.on_disk():
                piece = encode(await asyncio.to_thread(words.chunk, index))
            yield piece
            running.clock.served(silo, index, at, len(piece))

    # How a round goes on.

    async def _begin(self, round_: Round, folder: Path) -> RunningRound:
        """The round under way; silos hear of it once it stands where its journal ends."""
        async with self._changed:
            try:
                earlier = self._round.own_answers if self._round else self._earlier
                journal = await AwaitedJournal.open(self._open_journal, folder, round_.digest)
                running = RunningRound(round_, folder, self._threads, earlier, journal, self.present, self._wake_soon)
                await running.replay()
            except OSError as error:
                raise disk_failed(folder, error, DiskFailed) from None
            self._round = running
            self._changed.notify_all()
        return running

    async def _run_phase(self, running: RunningRound) -> None:
        phase = running.session.phase
        await self._all_arrived_or_late(running)
        async with self._changed:  # nobody speaks while the phase closes
            self.metrics.awaits(phase, 0, 0)
            if running.disk_failure:
                raise RoundAborted(DISK_FAILED)
            for silo, why in running.clock.reasons().items():
                running.why_dropped[silo] = why
                _log.warning("%s: dropped in phase %s: %s", silo, phase, why)
            with running.on_disk():
                answers = await running.close_phase()
            await running.note(CLOSED, "", b"")
            running.answer(answers)
            self._changed.notify_all()

    async def _all_arrived_or_late(self, running: RunningRound) -> None:
        named: set[str] = set()
        async with self._changed:
            while True:
                waiting = running.clock.waiting()
                self.metrics.awaits(waiting.phase, len(waiting.awaited), len(waiting.late))
                if late := [silo for silo in waiting.late if silo not in named]:
                    named.update(late)
                    _log.warning("phase %s still waits for %s, until %s at the latest", *waiting.named(late))
                self._watch(f"{waiting.phase}", waiting.arrived, waiting.expected)
                if running.disk_failure or running.clock.seconds_left() <= 0:
                    return
                with suppress(TimeoutError):  # words may have arrived in the meantime; nobody is notified of those
                    async with asyncio.timeout(running.clock.seconds_to_next()):
                        await self._changed.wait()

    async def _abort(self, running: RunningRound, reason: str) -> None:
        async with self._changed:
            running.abort(reason)
            self._changed.notify_all()

    def _offer(self, silo: str) -> round_pb2.Offer | None:
        """What a silo that asks is told at this moment; None: it waits."""
        if self._over is not None:
            return round_pb2.Offer(over=self._over)
        if self._round is None or not self.present.may_begin(silo, self._round.session):
            return None
        return round_pb2.Offer(round=self._round.offer)

    async def _uploading(self, silo: str) -> RunningRound:
        """The present round, in which a silo's upload is due. Raises UnexpectedMessage otherwise."""
        async with self._changed:
            running = await self._begun(silo)
        running.check_going_on()
        if running.session.phase is not Phase.UPLOAD or silo not in running.session.expected:
            raise UnexpectedMessage("no upload is due", party=silo)
        return running

    async def _begun(self, silo: str) -> RunningRound:
        """The present round. An aggregator that was just started answers nobody before it has read its journal.

        The caller holds the lock. Raises UnexpectedMessage where all is over before a round began.
        """
        await self._changed.wait_for(lambda: self._round or self._over)
        if self._round is None:
            raise UnexpectedMessage("no round has begun", party=silo)
        return self._round

    def _wake_soon(self) -> None:
        waking = asyncio.create_task(self._wake())
        self._waking.add(waking)  # a task that nobody refers to may never run
        waking.add_done_callback(self._waking.discard)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
