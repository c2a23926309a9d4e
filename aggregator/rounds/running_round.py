"""One round under way, as the aggregator holds it: in memory its session and who waits for which answer, in a folder
its journal, the uploads and the opened sum.
"""

import asyncio
from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from aggregator.rounds.awaited_journal import AwaitedJournal
from aggregator.rounds.journal import CLOSED, SPOKE, UPLOADED
from aggregator.rounds.phase_clock import PhaseClock
from aggregator.rounds.present_silos import PresentSilos
from aggregator.rounds.spool import Spool
from aggregator.rounds.word_sum import write_sum
from crypto.backends.backend_spec import backend_spec
from crypto.errors import DiskFailed, ProtocolError, RoundAborted, TooFewSurvivors
from crypto.names import Phase, ReleaseKind
from crypto.primitives import merkle
from crypto.secagg.round import Round
from silo_agent.opened_sums.committed_words import SUM_FILE, WORDS_SUFFIX, CommittedWords
from sparsilo.v1 import round_pb2

DISK_FAILED: Final = "the aggregator's disk failed"
"""What silos are told where the disk fails; why, and where, is the log's."""
Answers = dict[tuple[str, bytes], bytes]
"""What each silo was answered, by the SHA-256 of its message."""


class RunningRound:
    """A round from its beginning, or the moment that its journal tells of, until the next one begins.

    A message is answered when its phase closes, and again by the same bytes whenever it comes again, until its silo
    goes on. `earlier` are the last answers of the round before, of which some may have been lost on their way.
    `wake` is called when the disk fails.
    """

    def __init__(
        self,
        round_: Round,
        folder: Path,
        threads: int,
        earlier: Answers,
        journal: AwaitedJournal,
        present: PresentSilos,
        wake: Callable[[], None],
    ) -> None:
        spec = backend_spec(round_.plan.backend)
        lengths = spec.upload_lengths(round_.layout)
        self.session, self.folder = spec.aggregator_session(round_), folder
        self.journal = journal
        self.spools = {
            silo: Spool(folder / f"{silo}{WORDS_SUFFIX}", lengths, round_.digest, silo) for silo in round_.silos
        }
        self.own_answers: Answers = {}
        self.answers = ChainMap(self.own_answers, earlier)
        self.last_answers: Answers = {}
        """Those of the phase that was closed last."""
        self.committed: list[CommittedWords] = []
        """The survivors' uploads and then the sum, for auditors, once it is opened."""
        self.disk_failure: RoundAborted | None = None
        self.ended: RoundAborted | None = None
        """Why the round was aborted, for silos that have something to say only now."""
        self.why_dropped: dict[str, str] = {}
        """Of each silo that was dropped since the process began, why."""
        self._waits_on: dict[str, bytes] = {}
        self._threads, self._present, self._wake = threads, present, wake
        self.clock = PhaseClock(self.session, present)

    @property
    def release_kind(self) -> ReleaseKind:
        """What the round sums."""
        return self.session.round.plan.release_kind(self.session.round.index)

    @property
    def offer(self) -> round_pb2.RoundOffer:
        """The round as silos are offered it."""
        round_ = self.session.round
        return round_pb2.RoundOffer(
            plan=round_.plan.encoded, index=round_.index, input=round_.input_digest, cohort=round_.cohort
        )

    async def replay(self) -> None:
        """Let whatever the journal says has happened in the round happen to the session.

        Raises DiskFailed where the journal, or an upload that it says is whole, is not what was written.
        """
        try:
            await self._replay()
        except ProtocolError as error:  # which the message did not deserve when it came
            raise DiskFailed(
                f"{self.folder}: the journal cannot be repeated: {error.message}", hint="the disk lost or changed it"
            ) from None

    async def _replay(self) -> None:
        for kind, silo, data in await self.journal.events():
            if kind == SPOKE:
                self.receive(silo, data)
            elif kind == UPLOADED:
                if self.spools[silo].stored_root() != data:
                    raise DiskFailed.changed(self.spools[silo].file)
                self.session.uploaded(silo, data)
            elif kind == CLOSED:
                self.answer(await self.close_phase())

    def waits_on(self, silo: str, digest: bytes) -> bool:
        """Return whether a message with this SHA-256 is what a silo has said and was not answered yet."""
        return self._waits_on.get(silo) == digest

    def receive(self, silo: str, data: bytes) -> None:
        """Take a silo's message, which then waits for an answer.

        Raises the ProtocolError that it deserves, or RoundAborted where the round has ended.
        """
        self.check_going_on()
        self.session.receive(silo, data)
        for answered in [known for known in self.own_answers if known[0] == silo]:
            del self.own_answers[answered]  # it has got that, or it would not go on: one with 200 seals has 250 kB
        self._waits_on[silo] = sha256(data).digest()

    def check_going_on(self) -> None:
        """Raise RoundAborted, with the reason, where the round has been aborted."""
        if self.ended:
            raise self.ended

    async def close_phase(self) -> dict[str, bytes]:
        """Return each silo's answer; UNMASK opens the sum first. Raises TooFewSurvivors naming the phase, and who was
        dropped when and why.
        """
        try:
            if self.session.phase is Phase.UNMASK:
                await self.open_sum()
            answers = await asyncio.to_thread(self.session.close_phase)
        except TooFewSurvivors as error:
            dropped = sorted(self.session.dropped.items())
            whys = (f"{silo} in {phase}, {self.why_dropped.get(silo, 'before a restart')}" for silo, phase in dropped)
            raise TooFewSurvivors(error.message, hint=f"dropped: {'; '.join(whys)}") from None
        return answers

    def note(self, kind: str, silo: str, data: bytes) -> Awaitable[None]:
        """Write what happened into the journal, after what was given to it before.

        It is written, or ends the round, also where nobody awaits it any more. Raises RoundAborted.
        """
        return asyncio.shield(asyncio.create_task(self._noted(self.journal.note(kind, silo, data))))

    async def _noted(self, noting: Awaitable[None]) -> None:
        with self.on_disk():
            await noting

    def answer(self, answers: Mapping[str, bytes]) -> None:
        """Give silos the answer to what they wait on; their time in the next phase begins."""
        self.clock = PhaseClock(self.session, self._present)
        self.last_answers = {(silo, self._waits_on.pop(silo)): answer for silo, answer in answers.items()}
        self.own_answers |= self.last_answers

    def abort(self, reason: str) -> None:
        """End the round; whoever waits is answered with the reason, and so is who comes later."""
        self.ended = RoundAborted(f"{self.session.phase}: {reason}")
        self.answer(dict.fromkeys(self._waits_on, self.session.abort(reason)))

    async def open_sum(self) -> None:
        """Add up the survivors' words and open the sum into a file. Raises TooFewSurvivors, BadShare or CorruptSum."""
        session, layout, file = self.session, self.session.round.layout, self.folder / SUM_FILE
        await asyncio.to_thread(session.recover)
        survivors = [self.spools[silo] for silo in session.survivors]
        uploads = [spool.file for spool in survivors]
        leaves = await asyncio.to_thread(write_sum, layout, uploads, session, file, self._threads)
        opened = CommittedWords(file, layout.lengths, "", leaves)
        self.committed = [*(spool.committed() for spool in survivors), opened]
        session.summed(merkle.root(leaves))

    @contextmanager
    def on_disk(self) -> Iterator[None]:
        """A disk that fails ends the round: nothing is answered that a restart would not remember (4.11).

        Raises RoundAborted, which may be told to silos. `disk_failure` says more.
        """
        try:
            yield
        except OSError as error:
            self.disk_failure = disk_failed(self.folder, error)
            self._wake()
            raise RoundAborted(DISK_FAILED) from None


def disk_failed(folder: Path, error: OSError, kind: type[RoundAborted] = RoundAborted) -> RoundAborted:
    """Return the error that ends a round for everybody, or as DiskFailed keeps it from beginning."""
    reason = f"{folder}: {error.strerror or error}"
    return kind(reason, hint="is there room on the aggregator's disk, and is it a local one?")
