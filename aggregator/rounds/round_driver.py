"""The aggregator's driver: one round at a time over the silos that call in. Owns the clock, the disk and retries; no
cryptography.

Silos call, the aggregator never dials. A call waits here until its phase closes: when everybody expected has spoken,
or nothing has arrived for as long as the plan allows. Whatever was answered is answered again to the same bytes, also
by an aggregator that was killed and started again (aggregator/rounds/journal).
"""

import asyncio
import logging
import sqlite3
from collections import ChainMap, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Final

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.journal import CLOSED, SPOKE, UPLOADED, Journal
from aggregator.rounds.spool import Spool
from aggregator.rounds.word_sum import write_sum
from crypto.backends.backend_spec import backend_spec
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import ProtocolError, RoundAborted, SparsiloError, UnexpectedMessage
from crypto.names import Phase
from crypto.primitives import merkle
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession
from silo_agent.host.whole_file import write_whole
from silo_agent.rounds.committed_words import SUM_FILE, TRANSCRIPT_FILE, WORDS_SUFFIX, CommittedWords
from silo_agent.rounds.opened_sum import OpenedRound
from sparsilo.v1 import round_pb2, words_pb2

Watch = Callable[[str, int, int], None]
"""What is being waited for, how much of it is there, and how much there is."""

FILE_PIECE_BYTES: Final = 1 << 20
CONNECTED_SECONDS: Final = 90.0
"""A silo that waits calls every 30 seconds."""

_log = logging.getLogger(__name__)


@dataclass
class Traffic:
    """Message bytes of one silo, seen from the silo."""

    up: int = 0
    down: int = 0


@dataclass
class ClosedRound:
    """A round whose sum is opened, and recomputed by the silos where the backend has an AUDIT."""

    session: AggregatorSession
    folder: Path
    seconds: dict[Phase, float] = field(default_factory=dict)

    @property
    def opened(self) -> OpenedRound:
        """Its sum, as later rounds of the run start from it."""
        root = self.session.sum_root
        return OpenedRound(self.session.round, len(self.session.survivors), root, self.folder / SUM_FILE)

    def save_transcript(self, folder: Path) -> None:
        """The round as `silo-agent verify` reads it: signed messages, uploads and sum (docs/formats.md, section 9)."""
        folder.mkdir()
        write_whole(folder / TRANSCRIPT_FILE, encode(self.session.transcript))
        for name in (*(f"{silo}{WORDS_SUFFIX}" for silo in self.session.survivors), SUM_FILE):
            (folder / name).hardlink_to(self.folder / name)


class RoundDriver:
    """What the servicer calls for silos, and `run()` for whoever wants a round run. Lives in one event loop."""

    def __init__(self, metrics: AggregatorMetrics, watch: Watch, threads: int = 1) -> None:
        self.traffic: dict[str, Traffic] = defaultdict(Traffic)
        self.metrics = metrics
        self._watch = watch
        self._changed = asyncio.Condition()
        self._session: AggregatorSession | None = None
        self._disk_failure: RoundAborted | None = None
        self._waking: asyncio.Task[None] | None = None
        self._over: round_pb2.Over | None = None
        self._journal: Journal | None = None
        self._folder = Path()
        self._threads = threads
        self._spools: dict[str, Spool] = {}
        self._committed: list[CommittedWords] = []
        self._pending: dict[str, bytes] = {}  # digest of the message that each silo waits on
        self._answers: ChainMap[tuple[str, bytes], bytes] = ChainMap()
        self._gone: set[str] = set()
        self._declined: set[str] = set()  # in the present round
        self._called: dict[str, float] = {}  # when each silo was last heard
        self._lost: set[str] = set()  # dropped in an earlier round and not heard of since
        self._files: dict[tuple[str, bytes], Path] = {}
        self._last_arrival = 0.0

    async def run(self, round_: Round, folder: Path) -> ClosedRound:
        """One round; uploads, sum and journal go into `folder`, and a folder with the journal of this round continues
        it.

        Raises TooFewSurvivors naming the phase, the ProtocolError that ended it, or RoundAborted where something could
        not be written. Every waiting silo is told, also when the round is cancelled.
        """
        plan, spec = round_.plan, backend_spec(round_.plan.backend)
        session, lengths = spec.aggregator_session(round_), spec.upload_lengths(round_.layout)
        self.metrics.silos.set(len(round_.silos))
        seconds: dict[Phase, float] = {}
        kind = plan.release_kind(round_.index)
        async with self._changed:
            self._folder, self._disk_failure, self._declined = folder, None, set()
            self._answers = ChainMap({}, self._answers.maps[0])  # and the last round's; nobody asks for older ones
            with self._on_disk():
                self._journal = Journal(folder / "journal.sqlite", round_.digest)
                self._spools = {
                    silo: Spool(folder / f"{silo}{WORDS_SUFFIX}", lengths, round_.digest, silo) for silo in round_.silos
                }
                await self._resume(session, self._journal)
            self._session = session
            self._changed.notify_all()
        try:
            while session.phase is not Phase.DONE:
                phase: Phase = session.phase
                start = _now()
                self.metrics.enter(phase)
                await self._run_phase(session)
                seconds[phase] = _now() - start
            if not self._committed:  # a backend without AUDIT
                with self._on_disk():
                    await self._open(session)
        except (SparsiloError, asyncio.CancelledError) as error:
            reason = "the aggregator ended the run"
            if isinstance(error, SparsiloError):  # else it is stopped, and may go on
                reason = error.message
                self.metrics.rounds.labels(kind, "failed").inc()
            self.metrics.enter(Phase.ABORTED)
            telling = asyncio.create_task(self._abort(session, reason))
            await asyncio.shield(telling)  # whatever ends this round in the meantime
            raise
        finally:
            self._noted.close()
            self._lost |= session.dropped.keys()
            for phase in session.dropped.values():
                self.metrics.dropped.labels(phase).inc()
        self.metrics.enter(Phase.DONE)
        self.metrics.rounds.labels(kind, "done").inc()
        self.metrics.survivors.set(len(session.survivors))
        return ClosedRound(session, folder, seconds)

    async def finish(self, failure: str = "") -> None:
        """Tell every silo that asks for more that there is none; what was said first stands."""
        async with self._changed:
            self._over = self._over or round_pb2.Over(failure=failure)
            self._changed.notify_all()

    async def gone(self, silo: str) -> None:
        """A silo's process is known to have ended: nobody waits for it any more."""
        self._gone.add(silo)
        await self._wake()

    async def decline(self, silo: str, round_digest: bytes, reason: str) -> None:
        """A silo will not take part in a round that it was offered."""
        async with self._changed:
            session = await self._begun(silo)
            if session.round.digest != round_digest or silo not in session.round.silos:
                raise UnexpectedMessage("declines a round that is not its own", party=silo)
            if silo in self._declined or silo in session.arrived or session.phase is not Phase.PLAN:
                return
            self._declined.add(silo)
            _log.warning("%s: declines the %s round: %s", silo, self._kind(session), reason)
            self.metrics.declined.labels(self._kind(session)).inc()
            self._changed.notify_all()

    @staticmethod
    def _kind(session: AggregatorSession) -> str:
        return session.round.plan.release_kind(session.round.index)

    def called(self, silo: str) -> None:
        """A silo was heard."""
        self._called[silo] = monotonic()

    def connected(self) -> int:
        """How many silos were heard within CONNECTED_SECONDS; asked from any thread."""
        return sum(monotonic() - at <= CONNECTED_SECONDS for at in tuple(self._called.values()))

    def offer_candidate(self, digest: bytes, file: Path) -> None:
        """Serve a file to silos that name its SHA-256."""
        self._files["candidate", digest] = file

    def offer_opened(self, closed: ClosedRound) -> None:
        """Serve what a round opened to silos that name its round digest."""
        digest = closed.session.round.digest
        write_whole(closed.folder / TRANSCRIPT_FILE, encode(closed.session.transcript))
        self._files["transcript", digest] = closed.folder / TRANSCRIPT_FILE
        self._files["opened_sum", digest] = closed.folder / SUM_FILE

    def count(self, silo: str, *, up: int = 0, down: int = 0) -> None:
        """Message bytes of one silo, sent up to here or down to it."""
        self.traffic[silo].up += up
        self.traffic[silo].down += down
        self.metrics.received_bytes.inc(up)
        self.metrics.sent_bytes.inc(down)

    # What silos call.

    async def next(self, silo: str) -> bytes:
        """The round that now needs this silo, or the end of everything; waits for either."""

        def offer() -> round_pb2.Offer | None:
            if self._over is not None:
                return round_pb2.Offer(over=self._over)
            session = self._session
            if (
                session is None
                or session.phase is not Phase.PLAN
                or silo in session.arrived | self._declined
                or silo not in session.expected
            ):
                return None
            round_ = session.round
            offered = round_pb2.RoundOffer(
                plan=round_.plan.encoded, index=round_.index, input=round_.input_digest, cohort=round_.cohort
            )
            return round_pb2.Offer(round=offered)

        async with self._changed:
            self._lost.discard(silo)
            while (found := offer()) is None:
                await self._changed.wait()
        return encode(found)

    async def advance(self, silo: str, data: bytes) -> bytes:
        """A silo's message of the present phase; returns the answer once the phase has closed."""
        digest = sha256(data).digest()
        async with self._changed:
            session = await self._begun(silo)
            if (silo, digest) not in self._answers:
                if self._pending.get(silo) != digest:  # asking again is no arrival
                    session.receive(silo, data)
                    self._pending[silo] = digest
                    self._arrived()
                    self._changed.notify_all()
                    with self._on_disk():
                        self._noted.note(SPOKE, silo, data)
                await self._changed.wait_for(lambda: (silo, digest) in self._answers)
            return self._answers[silo, digest]

    async def upload(self, silo: str, chunks: AsyncIterator[bytes]) -> bytes:
        """A silo's words, spooled to disk."""
        async with self._changed:
            session = await self._begun(silo)
        if session.phase is not Phase.UPLOAD or silo not in session.expected:
            raise UnexpectedMessage("no upload is due", party=silo)
        spool, count = self._spools[silo], 0
        stream = spool.start()
        async for data in chunks:
            if session.phase is not Phase.UPLOAD:
                raise UnexpectedMessage("the upload came too late", party=silo)
            with self._on_disk():
                spool.take(stream, decode(words_pb2.WordChunk, data, MESSAGE_LIMIT, party=silo))
            self._arrived()
            count += 1
        with self._on_disk():
            root = await asyncio.to_thread(spool.root)
        if session.phase is not Phase.UPLOAD:  # the journal may be the next round's by now
            raise UnexpectedMessage("the upload ended too late", party=silo)
        with self._on_disk():
            self._noted.note(UPLOADED, silo, root)
        session.uploaded(silo, root)
        return encode(words_pb2.UploadReceipt(chunks=count))

    async def committed(self, silo: str, round_digest: bytes, index: int) -> AsyncIterator[bytes]:
        """One chunk of every survivor's upload and of the opened sum, encoded, for an auditor of that chunk."""
        async with self._changed:
            session = await self._begun(silo)
        if session.round.digest != round_digest or not session.may_audit(silo, index):
            raise UnexpectedMessage(f"is no auditor of chunk {index}", party=silo)
        self._arrived()
        for words in self._committed:
            with self._on_disk():
                piece = encode(await asyncio.to_thread(words.chunk, index))
            yield piece

    async def file(self, kind: str, digest: bytes) -> AsyncIterator[bytes]:
        """The encoded pieces of a file that was offered."""
        if (kind, digest) not in self._files:
            raise ProtocolError("no such file is offered")
        with self._files[kind, digest].open("rb") as file:
            while data := file.read(FILE_PIECE_BYTES):
                yield encode(words_pb2.FilePiece(data=data))

    async def _run_phase(self, session: AggregatorSession) -> None:
        phase = session.phase
        await self._all_arrived_or_late(session)
        async with self._changed:  # nobody speaks while the phase closes
            if self._disk_failure:
                raise self._disk_failure
            with self._on_disk():
                if phase is Phase.UNMASK:
                    await self._open(session)
                answers = await asyncio.to_thread(session.close_phase)
                self._noted.note(CLOSED, "", b"")
            self._answer(answers)
        for silo, dropped_in in session.dropped.items():
            if dropped_in is phase:
                _log.warning("%s: dropped in phase %s", silo, phase)

    async def _open(self, session: AggregatorSession) -> None:
        """The survivors' sum, opened into a file."""
        layout, file = session.round.layout, self._folder / SUM_FILE
        await asyncio.to_thread(session.recover)
        survivors = [self._spools[silo] for silo in session.survivors]
        uploads = [spool.file for spool in survivors]
        leaves = await asyncio.to_thread(write_sum, layout, uploads, session, file, self._threads)
        self._committed = [
            *(spool.committed() for spool in survivors),
            CommittedWords(file, layout.lengths, "", leaves),
        ]
        session.summed(merkle.root(leaves))

    async def _resume(self, session: AggregatorSession, journal: Journal) -> None:
        """Whatever a journal says has happened in the round, happens to the new session."""
        self._committed, self._pending = [], {}
        for kind, silo, data in journal.events():
            match kind:
                case "spoke":
                    session.receive(silo, data)
                    self._pending[silo] = sha256(data).digest()
                case "uploaded":
                    session.uploaded(silo, data)
                case "closed":
                    if session.phase is Phase.UNMASK:
                        await self._open(session)
                    self._answer(session.close_phase())

    async def _begun(self, silo: str) -> AggregatorSession:
        """The present round's. An aggregator that was just started answers nobody before it has read its journal.

        The caller holds the lock.
        """
        await self._changed.wait_for(lambda: self._session or self._over)
        if self._session is None:
            raise UnexpectedMessage("no round has begun", party=silo)
        return self._session

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A disk that fails ends the round: nothing is answered that a restart would not remember (4.11).

        Raises RoundAborted, here and in `run`.
        """
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = f"{self._folder}: {getattr(error, 'strerror', None) or error}"
            hint = "is there room on the aggregator's disk, and is it a local one?"
            self._disk_failure = RoundAborted(reason, hint=hint)
            self._waking = asyncio.create_task(self._wake())
            raise self._disk_failure from None

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @property
    def _noted(self) -> Journal:
        if self._journal is None:
            raise RuntimeError("no round has begun")
        return self._journal

    async def _all_arrived_or_late(self, session: AggregatorSession) -> None:
        plan = session.round.plan.message
        self._arrived()
        while True:
            arrived, expected = session.arrived, set(session.expected)
            self._watch(f"{session.phase}", len(arrived), len(expected))
            # A round a block would otherwise wait for a lost silo's preparation as often as there are blocks.
            prepares = session.phase is Phase.PLAN and not expected - arrived <= self._lost
            patience = plan.preparation_seconds if prepares else plan.phase_seconds
            left = self._last_arrival + patience - _now()
            if self._disk_failure or not expected - arrived - self._gone - self._declined or left <= 0:
                return
            async with self._changed:
                if session.arrived == arrived and not (
                    self._disk_failure or expected - arrived <= self._gone | self._declined
                ):
                    with suppress(TimeoutError):  # words may have arrived in the meantime; nobody is notified of those
                        async with asyncio.timeout(left):
                            await self._changed.wait()

    async def _abort(self, session: AggregatorSession, reason: str) -> None:
        async with self._changed:
            self._answer(dict.fromkeys(self._pending, session.abort(reason)))

    def _answer(self, answers: dict[str, bytes]) -> None:
        for silo, answer in answers.items():
            self._answers[silo, self._pending.pop(silo)] = answer
        self._changed.notify_all()

    def _arrived(self) -> None:
        self._last_arrival = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
