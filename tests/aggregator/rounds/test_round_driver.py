"""The aggregator's driver with silos as coroutines: who is waited for, for how long, and what is answered."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from aggregator.rounds import running_round
from aggregator.rounds.closed_round import ClosedRound
from aggregator.rounds.journal import CLOSED, SPOKE, UPLOADED
from aggregator.rounds.spool import Spool
from aggregator.rounds.sqlite_journal import SqliteJournal
from crypto.backends.double_masking.aggregator import DoubleMaskingAggregator
from crypto.backends.double_masking.phases import TABLE
from crypto.encoding.wire import MESSAGE_LIMIT, decode
from crypto.errors import (
    BadUpload,
    MalformedMessage,
    RoundAborted,
    TooFewSurvivors,
    UnexpectedMessage,
)
from crypto.names import Backend, Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from scenarios.world import World, plain_sum
from silo_agent.network.calls import Advance, Call, Committed
from silo_agent.opened_sums.committed_words import CommittedWords
from sparsilo.v1 import round_pb2, words_pb2
from support.driven import Driven, held_of, iterate, listed, plan
from support.plans import plan_message, signing_keys
from support.simulated_time import SeededLoop

PHASES = list(TABLE)
DAY = 24 * 3600.0
PATIENCE = 300.0
A, B, C, D = (f"silo-{index:03d}" for index in range(4))


def opened(closed: ClosedRound) -> dict[str, list[int]]:
    sections: dict[str, list[int]] = {}
    for chunk, values in closed.opened.chunks():
        sections.setdefault(chunk.section.name, []).extend(values.tolist())
    return sections


def timed(work: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
    """The result, and the simulated seconds that it took."""
    with asyncio.Runner(loop_factory=lambda: SeededLoop(random.Random(0))) as runner:
        result = runner.run(asyncio.wait_for(work(), DAY))
        return result, runner.get_loop().time()


def in_real_time(work: Callable[[], Awaitable[Any]]) -> None:
    """Runs `work` while threads really work beside the event loop."""
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


async def when(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def arrived(driven: Driven, phase: Phase, *silos: str) -> Callable[[], bool]:
    def condition() -> bool:
        begun = driven.has_begun(driven.round)
        return begun and driven.session.phase is phase and driven.session.arrived >= set(silos)

    return condition


@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("silos", [3, 7])
def test_a_whole_round(silos: int, backend: Backend, tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(silos, backend=backend), tmp_path)
        closed = await driven.run()
        assert opened(closed) == plain_sum(driven.lanes, driven.round.plan.silos)
        assert closed.survivors == driven.round.plan.silos
        phases = PHASES if backend is Backend.DOUBLE_MASKING else [Phase.PLAN, Phase.UPLOAD]
        assert list(closed.seconds) == phases
        assert [phase for phase, *_ in driven.watched if phase == "upload"]
        assert all(0 <= done <= total == silos for _, done, total in driven.watched)
        assert driven.metric("rounds_total", release="votes", outcome="done") == 1
        assert driven.metric("rounds_total", release="votes", outcome="failed") == 0
        assert driven.metric("silos") == driven.metric("survivors") == silos
        assert driven.metric("phase", sparsilo_aggregator_phase="done") == 1
        assert [driven.metric("phase_seconds_count", phase=phase) for phase in phases] == [1] * len(phases)

    timed(work)


def test_one_driver_runs_one_round_after_another(tmp_path: Path) -> None:
    """Who was gone in the first is not waited for in the second. Last answers are kept for a round more."""

    async def work() -> None:
        first = Driven(plan(4, threshold=3), tmp_path / "first")
        await first.driver.gone(B)
        await first.run({B: Phase.PLAN})
        second = Driven(plan(4, threshold=3, run=b"another run of 4"), tmp_path / "second")
        second.driver = first.driver
        closed = await second.run({B: Phase.PLAN})
        assert closed.survivors == (A, C, D)
        assert opened(closed) == plain_sum(second.lanes, (A, C, D))
        for silo, message, answer in first.said[-3:]:
            assert await first.driver.advance(silo, message) == answer, "the first round's last answers are still given"
        for silo, message, _ in first.said[:-3]:
            with pytest.raises(UnexpectedMessage):
                await first.driver.advance(silo, message)
        third = Driven(plan(4, threshold=3, run=b"a third run of 4"), tmp_path / "third")
        third.driver = first.driver
        await third.run({B: Phase.PLAN})
        for silo, message, answer in second.said[-3:]:
            assert await first.driver.advance(silo, message) == answer
        for silo, message, _ in first.said:
            with pytest.raises(UnexpectedMessage):
                await first.driver.advance(silo, message)

    _, seconds = timed(work)
    assert seconds < 10


def test_a_message_after_its_phase_closed_gets_the_same_answer(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        perform = driven.perform

        async def perform_again(silo: str, call: Call) -> bytes | None:
            answer = await perform(silo, call)
            if isinstance(call, Advance):
                assert await driven.driver.advance(silo, call.message) == answer
            return answer

        driven.perform = perform_again  # type: ignore[method-assign]
        await driven.run()
        assert len(driven.said) == 3 * len(PHASES)
        for silo, message, answer in driven.said[-3:]:
            assert await driven.driver.advance(silo, message) == answer
        silo, message, _ = driven.said[0]
        with pytest.raises(UnexpectedMessage):  # the same bytes, but another silo's
            await driven.driver.advance(next(other for other in (A, B) if other != silo), message)

    timed(work)


def test_a_message_that_is_repeated_while_the_phase_waits_is_answered_both_times(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        first = asyncio.create_task(driven.driver.advance(A, driven.silos[A].message()))
        await when(arrived(driven, Phase.PLAN, A))
        again = asyncio.create_task(driven.driver.advance(A, driven.silos[A].message()))
        lost = asyncio.create_task(driven.driver.advance(A, driven.silos[A].message()))
        await asyncio.sleep(0.05)
        assert not first.done()
        assert not again.done()
        lost.cancel()  # as when its connection breaks
        await asyncio.gather(driven.step(B), driven.step(C))
        assert await first == await again
        running.cancel()

    timed(work)


@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.UNMASK])
def test_a_message_that_is_repeated_while_the_phase_closes_gets_the_same_answer(
    phase: Phase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing takes long with many silos; whoever asks anew in the meantime is told the same."""
    close_phase = DoubleMaskingAggregator.close_phase

    def slowly(self: DoubleMaskingAggregator) -> dict[str, bytes]:
        if self.phase is phase:
            time.sleep(0.3)
        return close_phase(self)

    monkeypatch.setattr(DoubleMaskingAggregator, "close_phase", slowly)

    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        perform, repeated = driven.perform, []

        async def perform_again(silo: str, call: Call) -> bytes | None:
            present = driven.silos[silo].phase
            spoken = asyncio.create_task(perform(silo, call))
            if silo == A and present is phase:
                await when(driven.driver._changed.locked)
                await asyncio.sleep(0.1)
                repeated.append(await driven.driver.advance(A, driven.silos[A].message()))
            return await spoken

        driven.perform = perform_again  # type: ignore[method-assign]
        await driven.run()
        assert repeated == [answer for silo, _, answer in driven.said if silo == A][PHASES.index(phase) :][:1]

    in_real_time(work)


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase is not Phase.COIN])
def test_a_silent_silo_is_dropped_after_as_long_as_the_plan_says(phase: Phase, tmp_path: Path) -> None:
    """In PLAN: it never calls."""

    async def work() -> None:
        driven = Driven(plan(4, threshold=3, seconds=1), tmp_path)
        closed = await driven.run({C: phase})
        assert closed.dropped == {C: phase}
        survivors = (A, B, C, D) if PHASES.index(phase) > PHASES.index(Phase.UPLOAD) else (A, B, D)
        assert closed.survivors == survivors
        assert opened(closed) == plain_sum(driven.lanes, survivors)
        assert 1 <= closed.seconds[phase] < 3
        assert all(seconds < 1 for other, seconds in closed.seconds.items() if other is not phase)
        assert driven.metric("dropped_total", phase=phase) == 1
        assert driven.metric("survivors") == len(survivors)

    timed(work)


def test_one_silent_silo_is_too_many_when_coins_are_revealed(tmp_path: Path) -> None:
    """Whoever withholds its coin would choose between two assignments of auditors (5.8)."""

    async def work() -> None:
        driven = Driven(plan(4, threshold=3, seconds=1), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        silos = [driven.take_part(silo, Phase.COIN if silo == C else Phase.DONE) for silo in (A, B, C, D)]
        told = await asyncio.gather(*silos, return_exceptions=True)
        assert [type(each) for each in told] == [RoundAborted, RoundAborted, type(None), RoundAborted]
        with pytest.raises(TooFewSurvivors, match=r"^phase coin: 3 of 4 silos answered and 4 are needed"):
            await running

    timed(work)


def test_preparation_has_a_patience_of_its_own(tmp_path: Path) -> None:
    async def work() -> None:
        message = plan(3, seconds=1).message
        message.preparation_seconds = 60
        driven = Driven(checked_plan(message), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        await asyncio.sleep(1.3)  # silos prune
        await asyncio.gather(*map(driven.take_part, (A, B, C)))
        assert (await running).dropped == {}

    timed(work)


def test_whoever_asks_again_and_again_does_not_prolong_the_phase(tmp_path: Path) -> None:
    """Waiting silos call anew every 30 s; the silent one must not profit from that."""

    async def work() -> None:
        driven = Driven(plan(4, threshold=3, seconds=1), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        waiting = [asyncio.create_task(driven.take_part(silo)) for silo in (A, B, C)]

        async def ask_again() -> None:
            await when(arrived(driven, Phase.PLAN, A))
            while driven.silos[A].phase is Phase.PLAN:
                call = asyncio.create_task(driven.driver.advance(A, driven.silos[A].message()))
                await asyncio.sleep(0.3)
                call.cancel()

        asking = asyncio.create_task(ask_again())
        try:
            async with asyncio.timeout(4):
                closed = await running
        finally:
            asking.cancel()
        await asyncio.gather(*waiting)
        assert closed.dropped == {D: Phase.PLAN}

    timed(work)


def test_every_chunk_prolongs_the_upload(tmp_path: Path) -> None:
    """Whoever is slow is not silent; whoever stops in the middle is dropped."""

    async def work() -> None:
        driven = Driven(plan(4, threshold=3, seconds=1, rate=24, chunk_words=2), tmp_path)

        async def slow(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
            for chunk in chunks:
                await asyncio.sleep(0.3)
                yield chunk

        async def stopping(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
            yield next(chunks)
            await asyncio.sleep(60)

        upload = driven.upload

        async def uploads(silo: str) -> None:
            if silo == B:
                await driven.driver.upload(B, slow(driven.chunks(B)))
            elif silo == D:
                await driven.driver.upload(D, stopping(driven.chunks(D)))
            else:
                await upload(silo)

        driven.upload = uploads  # type: ignore[method-assign]
        stopped = asyncio.create_task(driven.take_part(D))
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        await asyncio.gather(*map(driven.take_part, (A, B, C)))
        closed = await running
        assert closed.dropped == {D: Phase.UPLOAD}
        assert closed.survivors == (A, B, C)
        assert opened(closed) == plain_sum(driven.lanes, (A, B, C))
        assert len(driven.round.layout.chunks) == 6
        assert closed.seconds[Phase.UPLOAD] > 1.8
        stopped.cancel()

    timed(work)


@pytest.mark.clause("4.12", "4.14")
def test_a_silo_that_sends_too_slowly_holds_the_upload_open_as_long_as_the_plan_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own chunks, its retries and what it asks: no more than the rest of its upload at the least rate."""

    async def work() -> None:
        driven = Driven(plan(4, threshold=3, seconds=10, rate=100, chunk_words=1, shape=(20, 32)), tmp_path)
        size, phase_ended = sum(driven.round.layout.lengths), asyncio.Event()

        async def trickling(silo: str) -> None:
            chunks = list(driven.chunks(silo))
            while not phase_ended.is_set():
                held = await held_of(driven.driver, silo, driven.round.digest)
                with suppress(BadUpload):  # the stream ends early
                    await driven.driver.upload(silo, iterate(iter(chunks[held : held + 1])))
                await asyncio.sleep(2)

        upload = driven.upload
        driven.upload = lambda silo: trickling(silo) if silo == D else upload(silo)  # type: ignore[method-assign]
        slow = asyncio.create_task(driven.take_part(D))
        closed, *_ = await asyncio.gather(driven.driver.run(driven.round, tmp_path), *map(driven.take_part, (A, B, C)))
        phase_ended.set()
        slow.cancel()
        assert closed.dropped == {D: Phase.UPLOAD}
        assert 10 < closed.seconds[Phase.UPLOAD] <= 10 + size / 100
        assert driven.metric("awaited_silos", phase="upload") == driven.metric("late_silos", phase="upload") == 0

    timed(work)
    said = [record.getMessage() for record in caplog.records if D in record.getMessage()]
    assert any(line.startswith(f"phase upload still waits for {D}, until ") for line in said)
    assert any(
        re.fullmatch(rf"{D}: dropped in phase upload: \d+ bytes in \d+ seconds: .* 100 a second", line) for line in said
    )


@pytest.mark.clause("4.13")
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase is not Phase.PLAN])
def test_a_phase_that_too_few_can_come_to_ends_at_once_and_says_why(phase: Phase, tmp_path: Path) -> None:
    async def work() -> str:
        driven = Driven(plan(4, threshold=3, seconds=3600), tmp_path)

        async def lose() -> None:
            await when(lambda: driven.has_begun(driven.round) and driven.session.phase is phase)
            await driven.driver.gone(C, "is revoked")
            await driven.driver.gone(D)

        silos = [driven.take_part(silo, Phase.DONE if silo == A else phase) for silo in (A, B, C, D)]
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        await asyncio.gather(lose(), *silos, return_exceptions=True)
        with pytest.raises(TooFewSurvivors, match=rf"^phase {phase}: ") as failed:
            await running
        return failed.value.hint

    hint, seconds = timed(work)
    assert seconds < 60
    assert f"{C} in {phase}, is revoked" in hint
    assert f"{D} in {phase}, " in hint


@pytest.mark.clause("4.12")
def test_every_chunk_that_is_asked_for_prolongs_the_audit(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3, seconds=1, rate=1, chunk_words=1, shape=(20, 32)), tmp_path)  # 42 chunks
        perform, pauses = driven.perform, [0.4] * 4

        async def slowly(silo: str, call: Call) -> bytes | None:
            if silo == B and isinstance(call, Committed) and pauses:
                await asyncio.sleep(pauses.pop())
            return await perform(silo, call)

        driven.perform = slowly  # type: ignore[method-assign]
        closed = await driven.run()
        assert pauses == []
        assert closed.dropped == {}
        assert closed.seconds[Phase.AUDIT] > 1.5

    timed(work)


@pytest.mark.clause("5.9.1")
def test_committed_words_are_for_their_auditors_and_in_audit_only(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(4, chunk_words=2), tmp_path)
        digest, refused = driven.round.digest, 0

        async def ask(silo: str, index: int, round_: bytes = digest) -> list[bytes]:
            return await listed(driven.driver.committed(silo, round_, index))

        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        taking_part = [asyncio.create_task(driven.take_part(silo, Phase.AUDIT)) for silo in driven.silos]
        with pytest.raises(UnexpectedMessage):
            await ask(A, 0)
        await asyncio.gather(*taking_part)
        uploads = [(tmp_path / f"{silo}.words").read_bytes() for silo in driven.silos]
        for silo, index in product(driven.silos, range(6)):
            chunk, start = driven.round.layout.chunks[index], sum(driven.round.layout.lengths[:index])
            if index in driven.silos[silo].assigned:
                pieces = [decode(words_pb2.CommittedChunk, piece, MESSAGE_LIMIT) for piece in await ask(silo, index)]
                assert [piece.silo for piece in pieces] == [*driven.silos, ""]
                sent = [upload[start : start + 8 * chunk.words] for upload in uploads]
                assert [piece.words for piece in pieces[:-1]] == sent
                with pytest.raises(UnexpectedMessage, match=f"{silo}: is no auditor of chunk {index}"):
                    await ask(silo, index, bytes(32))
            else:
                refused += 1
                with pytest.raises(UnexpectedMessage, match=f"{silo}: is no auditor of chunk {index}"):
                    await ask(silo, index)
        assert refused == 6 * 2
        for silo, index in (("silo-009", 0), (A, 6)):
            with pytest.raises(UnexpectedMessage, match="is no auditor"):
                await ask(silo, index)
        running.cancel()

    timed(work)


@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.SHARES, Phase.UPLOAD, Phase.UNMASK])
def test_nobody_waits_for_a_silo_that_is_gone(phase: Phase, tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(4, threshold=3), tmp_path)

        async def go() -> None:
            await when(arrived(driven, phase, A, C, D))
            await driven.driver.gone(B)

        closed, _ = await asyncio.gather(driven.run({B: phase}), go())
        assert closed.dropped == {B: phase}

    _, seconds = timed(work)
    assert seconds < 10, "the plan would wait for a minute"


def test_a_silo_that_is_gone_before_the_last_message_does_not_close_the_phase(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(4, threshold=3), tmp_path)
        await driven.driver.gone(B)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        others = [asyncio.create_task(driven.take_part(silo)) for silo in (A, C)]
        await when(arrived(driven, Phase.PLAN, A, C))
        await asyncio.sleep(0.1)
        assert driven.session.phase is Phase.PLAN
        await asyncio.gather(running, driven.take_part(D), *others)

    timed(work)


def test_refused_messages_leave_the_round_as_it_was(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(4, threshold=3), tmp_path)
        driver, honest = driven.driver, driven.silos
        running = asyncio.create_task(driver.run(driven.round, tmp_path))
        await when(lambda: driven.has_begun(driven.round))
        with pytest.raises(UnexpectedMessage, match="silo-009"):
            await driver.advance("silo-009", honest[A].message())
        with pytest.raises(MalformedMessage):
            await driver.advance(A, b"\xff")
        with pytest.raises(UnexpectedMessage, match="another round"):
            await driver.advance(A, World(plan(4, run=b"another run of 4"), signing_keys(4)).silos[A].message())
        with pytest.raises(UnexpectedMessage, match="no upload is due"):
            await driver.upload(A, iterate(iter([])))
        spoken = asyncio.create_task(driven.take_part(A))
        await when(arrived(driven, Phase.PLAN, A))
        with pytest.raises(UnexpectedMessage, match="twice"):
            await driver.advance(A, World(driven.round.plan, signing_keys(4)).silos[A].message())
        await driver.gone(D)
        closed, *_ = await asyncio.gather(running, spoken, driven.take_part(B), driven.take_part(C))
        with pytest.raises(UnexpectedMessage, match="nothing to say"):
            await driver.advance(D, honest[D].message())
        assert opened(closed) == plain_sum(driven.lanes, (A, B, C))

    timed(work)


@pytest.mark.parametrize("phase", PHASES)
def test_every_waiting_silo_hears_that_the_round_is_aborted(phase: Phase, tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(4, threshold=3), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        waiting = [asyncio.create_task(driven.take_part(silo)) for silo in (A, D)]
        silent = [asyncio.create_task(driven.take_part(silo, phase)) for silo in (B, C)]
        await when(arrived(driven, phase, A, D))
        await asyncio.gather(*silent)
        last = {silo: driven.silos[silo].message() for silo in (A, D)}
        await driven.driver.gone(B)
        await driven.driver.gone(C)
        needed = 4 if phase is Phase.COIN else 3
        with pytest.raises(TooFewSurvivors, match=f"phase {phase}: 2 of 4 silos answered and {needed} are needed"):
            await running
        for task in waiting:
            with pytest.raises(RoundAborted, match=f"{phase}: phase {phase}: 2 of 4"):
                await task
        assert {silo: session.phase for silo, session in driven.silos.items()} == {
            **dict.fromkeys((A, D), Phase.ABORTED),
            **dict.fromkeys((B, C), phase),
        }
        for silo, message in last.items():  # an answer that was lost on the way is given again
            answer = decode(round_pb2.AggregatorMessage, await driven.driver.advance(silo, message), MESSAGE_LIMIT)
            assert answer.aborted.phase == phase
        with pytest.raises(RoundAborted, match="2 of 4"):  # and whoever comes later is told why
            await driven.driver.advance(B, late.message if isinstance(late := driven.call(B), Advance) else b"")
        assert driven.metric("rounds_total", release="votes", outcome="failed") == 1
        assert driven.metric("rounds_total", release="votes", outcome="done") == 0
        assert driven.metric("dropped_total", phase=phase) == 2
        assert driven.metric("phase", sparsilo_aggregator_phase="aborted") == 1

    timed(work)


FULL = OSError(28, "No space left on device")
WRITES = [
    *((SqliteJournal, "note", phase, SPOKE, OSError("database or disk is full")) for phase in PHASES),
    *((SqliteJournal, "note", TABLE[phase].then, CLOSED, OSError("disk I/O error")) for phase in PHASES),
    (SqliteJournal, "note", Phase.UPLOAD, UPLOADED, OSError("disk I/O error")),
    (Spool, "take", Phase.UPLOAD, None, FULL),
    (Spool, "root", Phase.UPLOAD, None, FULL),
    (running_round, "write_sum", Phase.UNMASK, None, FULL),
    (CommittedWords, "chunk", Phase.AUDIT, None, FULL),
]
"""What fails, in which phase of the session, and in a journal for which kind of event."""


@pytest.mark.clause("4.11")
@pytest.mark.parametrize(("owner", "name", "phase", "kind", "error"), WRITES)
def test_a_disk_that_fails_ends_the_round_for_everybody(
    owner: Any, name: str, phase: Phase, kind: str | None, error: Exception, tmp_path: Path, monkeypatch: Any
) -> None:
    """What is not on disk is not answered: a restarted aggregator would not know of it."""

    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        done = getattr(owner, name)

        def failing(*arguments: Any) -> Any:
            present = driven.session.phase if driven.has_begun(driven.round) else None
            if present is phase and (kind is None or arguments[1] == kind):
                raise error
            return done(*arguments)

        monkeypatch.setattr(owner, name, failing)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        silos = [asyncio.create_task(driven.take_part(silo)) for silo in (A, B, C)]
        with pytest.raises(RoundAborted, match=f"^{tmp_path}: {error.args[-1]} \\(is there room"):
            await running
        ended = await asyncio.gather(*silos, return_exceptions=True)
        assert all(isinstance(end, RoundAborted | UnexpectedMessage) for end in ended), "nobody is done, or waits"
        assert any(isinstance(end, RoundAborted) for end in ended), "whoever met the failure is told at once"
        assert not any(f"{tmp_path}" in str(end) for end in ended), "the aggregator's paths are no silo's business"
        for silo, end in zip((A, B, C), ended, strict=True):
            if isinstance(end, UnexpectedMessage):  # had not spoken yet
                continue
            if isinstance(call := driven.call(silo), Advance) and driven.silos[silo].phase is phase:
                with suppress(RoundAborted):  # had not spoken yet
                    answer = decode(round_pb2.AggregatorMessage, await driven.driver.advance(silo, call.message), 1000)
                    assert answer.aborted.reason == running_round.DISK_FAILED

    _, seconds = timed(work)
    assert seconds < 10, "the plan would wait for a minute"


@pytest.mark.clause("4.11")
def test_a_disk_that_fails_one_silo_ends_the_round_though_the_others_would_be_enough(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async def work() -> None:
        driven = Driven(plan(4), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        others = [asyncio.create_task(driven.take_part(silo)) for silo in (A, B, D)]
        await driven.take_part(C, Phase.UPLOAD)
        await when(arrived(driven, Phase.UPLOAD, A, B, D))

        def full(*_: Any) -> None:
            raise FULL

        monkeypatch.setattr(Spool, "take", full)
        with pytest.raises(RoundAborted):
            await driven.driver.upload(C, iterate(driven.chunks(C)))
        with pytest.raises(RoundAborted, match="No space left on device"):
            await running
        await asyncio.gather(*others, return_exceptions=True)
        assert not driven.session.survivors, "nobody was told that the upload is over"

    timed(work)


@pytest.mark.clause("4.11")
def test_a_round_does_not_begin_on_a_disk_that_fails(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        asking = asyncio.create_task(driven.driver.next(A))
        with pytest.raises(
            RoundAborted, match=f"^{tmp_path}/nowhere: journal.sqlite: unable to open database file \\(is there room"
        ):
            await driven.driver.run(driven.round, tmp_path / "nowhere")
        assert not asking.done()
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        assert decode(round_pb2.Offer, await asking, MESSAGE_LIMIT).round.plan == driven.round.plan.encoded
        running.cancel()

    timed(work)


def test_next_waits_for_a_round_and_offers_it_once(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        driver = driven.driver
        asking = asyncio.create_task(driver.next(A))
        stranger = asyncio.create_task(driver.next("silo-009"))
        await asyncio.sleep(0.05)
        assert not asking.done()
        running = asyncio.create_task(driver.run(driven.round, tmp_path))
        offer = decode(round_pb2.Offer, await asking, MESSAGE_LIMIT).round
        assert (offer.plan, offer.index, offer.input) == (driven.round.plan.encoded, 0, b"")
        assert await driver.next(A) == await driver.next(B) == await asking, "until it has accepted"
        accepted = asyncio.create_task(driven.step(A))
        await when(arrived(driven, Phase.PLAN, A))
        more = asyncio.create_task(driver.next(A))
        await asyncio.sleep(0.05)
        assert not more.done()
        await asyncio.gather(accepted, driven.step(B), driven.step(C))
        late = asyncio.create_task(driver.next(B))
        await asyncio.sleep(0.05)
        assert not late.done()
        await driver.finish()
        for waiting in (more, late, stranger):
            assert decode(round_pb2.Offer, await waiting, MESSAGE_LIMIT) == round_pb2.Offer(over=round_pb2.Over())
        running.cancel()

    timed(work)


def test_next_says_why_all_is_over(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        waiting = asyncio.create_task(driven.driver.next(A))
        await asyncio.sleep(0)
        await driven.driver.finish("phase keys: too few")
        await driven.driver.finish()  # said at the end of every run
        for answer in (await waiting, await driven.driver.next(B)):
            assert decode(round_pb2.Offer, answer, MESSAGE_LIMIT).over.failure == "phase keys: too few"

    timed(work)


def test_an_upload_goes_on_after_what_is_held(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3, chunk_words=2), tmp_path)
        upload, receipts = driven.upload, []

        async def uploads(silo: str) -> None:
            chunks = list(driven.chunks(silo))
            if silo == B:
                with pytest.raises(BadUpload, match="2 of 4 chunks"):
                    await driven.driver.upload(B, iterate(iter(chunks[:2])))
                with pytest.raises(BadUpload, match="chunk 0 where chunk 2 is due"):
                    await driven.driver.upload(B, iterate(iter(chunks)))
                with pytest.raises(MalformedMessage):
                    await driven.driver.upload(B, iterate(iter([b"\xff"])))
                assert await held_of(driven.driver, B, driven.round.digest) == 2
                receipts.append(await driven.driver.upload(B, iterate(iter(chunks[2:]))))
                with pytest.raises(UnexpectedMessage, match="another round"):
                    await driven.driver.held(B, bytes(32))
            await upload(silo)

        driven.upload = uploads  # type: ignore[method-assign]
        closed = await driven.run()
        assert [decode(words_pb2.UploadReceipt, receipt, 100).chunks for receipt in receipts] == [4]
        assert opened(closed) == plain_sum(driven.lanes, (A, B, C))
        with pytest.raises(UnexpectedMessage, match="no upload is due"):
            await driven.driver.upload(A, iterate(iter([])))

    timed(work)


def test_chunks_after_the_upload_closed_are_refused(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(4, threshold=3), tmp_path)
        go_on = asyncio.Event()

        async def late(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
            yield next(chunks)
            await go_on.wait()
            yield next(chunks)

        async def take_part_late() -> None:
            await driven.take_part(D, Phase.UPLOAD)
            with pytest.raises(UnexpectedMessage, match="too late"):
                await driven.driver.upload(D, late(iter(list(driven.chunks(D)))))

        async def close() -> ClosedRound:
            running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
            await when(arrived(driven, Phase.UPLOAD, A, B, C))
            await driven.driver.gone(D)
            closed = await running
            go_on.set()
            return closed

        closing = asyncio.create_task(close())
        await asyncio.gather(take_part_late(), *map(driven.take_part, (A, B, C)))
        closed = await closing
        assert opened(closed) == plain_sum(driven.lanes, (A, B, C))

    timed(work)


def test_an_upload_that_ends_after_the_upload_closed_is_refused_and_not_noted(tmp_path: Path) -> None:
    """Every chunk came in time, but not the end of the stream: the next round's journal is none of its business."""

    async def work() -> None:
        driven = Driven(plan(4, threshold=3), tmp_path)
        go_on = asyncio.Event()

        async def endless(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk
            await go_on.wait()

        async def lost() -> None:
            await driven.take_part(D, Phase.UPLOAD)
            with pytest.raises(UnexpectedMessage, match="ended too late"):
                await driven.driver.upload(D, endless(driven.chunks(D)))

        losing = asyncio.create_task(lost())
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        others = [asyncio.create_task(driven.take_part(silo)) for silo in (A, B, C)]
        await when(arrived(driven, Phase.UPLOAD, A, B, C))
        await driven.driver.gone(D)
        await asyncio.gather(running, *others)
        next_folder = tmp_path / "next"
        next_folder.mkdir()
        next_round = Round(plan(4, run=b"another run of 4"), 0, b"")
        following = asyncio.create_task(driven.driver.run(next_round, next_folder))
        await when(lambda: driven.has_begun(next_round))
        go_on.set()
        await losing
        assert SqliteJournal(next_folder, next_round.digest).events() == []
        following.cancel()

    timed(work)


@pytest.mark.parametrize("ticks", range(8))
def test_a_round_that_is_cancelled_while_something_arrives_ends(ticks: int, tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        await when(lambda: driven.watched != [])
        speaking = asyncio.create_task(driven.step(A))
        for _ in range(ticks):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running], timeout=1)
        assert running.cancelled()
        speaking.cancel()

    timed(work)


@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.SHARES])
def test_waiting_silos_hear_of_a_round_that_is_cancelled(phase: Phase, tmp_path: Path) -> None:
    """As when an agent's own error ends the run: the others need not be killed."""

    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        waiting = [asyncio.create_task(driven.take_part(silo)) for silo in (A, B)]
        silent = asyncio.create_task(driven.take_part(C, phase))
        await when(arrived(driven, phase, A, B))
        running.cancel()
        for task in waiting:
            with pytest.raises(RoundAborted, match=phase):
                async with asyncio.timeout(2):
                    await task
        await asyncio.wait([running], timeout=2)
        assert running.cancelled()
        silent.cancel()

    timed(work)


def test_waiting_silos_hear_of_a_round_that_is_cancelled_while_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent ends with an error of its own, and without it too few are left."""
    close_phase = DoubleMaskingAggregator.close_phase

    def slowly(self: DoubleMaskingAggregator) -> dict[str, bytes]:
        time.sleep(0.2)
        return close_phase(self)

    monkeypatch.setattr(DoubleMaskingAggregator, "close_phase", slowly)

    async def work() -> None:
        driven = Driven(plan(3, threshold=3), tmp_path)
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        waiting = [asyncio.create_task(driven.take_part(silo)) for silo in (A, B)]
        await when(arrived(driven, Phase.PLAN, A, B))
        await driven.driver.gone(C)
        await when(driven.driver._changed.locked)
        await driven.driver.finish("silo-002: its roster differs")
        running.cancel()
        for task in waiting:
            with pytest.raises(RoundAborted, match="plan"):
                async with asyncio.timeout(PATIENCE):
                    await task
        await asyncio.wait([running], timeout=PATIENCE)
        assert running.done()

    in_real_time(work)


def test_the_round_that_is_asked_for_is_the_one_that_is_offered(tmp_path: Path) -> None:
    async def work() -> None:
        message = plan(3).message
        del message.rounds[:]
        for index in range(2):
            message.rounds.add().evaluation.sequences = 1 + index
            message.rounds[-1].evaluation.candidates.add(name="dense", dense=True)
        agreed = checked_plan(message)
        driven = Driven(agreed, tmp_path)
        running = asyncio.create_task(driven.driver.run(Round(agreed, 1, b""), tmp_path))
        offer = decode(round_pb2.Offer, await driven.driver.next(A), MESSAGE_LIMIT).round
        assert offer.index == 1
        with pytest.raises(UnexpectedMessage, match="another round"):
            await driven.driver.advance(A, driven.silos[A].message())  # of round 0
        running.cancel()

    timed(work)


def test_a_silo_that_was_lost_is_not_waited_for_as_if_it_were_preparing(tmp_path: Path) -> None:
    """Until it calls again: a run of a round a block would otherwise take as many preparations as blocks."""

    def patient(run: bytes, preparation: int) -> Driven:
        message = plan_message(4, run=run)
        message.phase_seconds, message.preparation_seconds = 1, preparation
        folder = tmp_path / run.decode()
        folder.mkdir()
        return Driven(checked_plan(message), folder)

    async def without_d(driven: Driven) -> ClosedRound:
        others = [driven.take_part(silo) for silo in (A, B, C)]
        running = asyncio.create_task(driven.driver.run(driven.round, driven.folder))
        await asyncio.gather(running, *others)
        return running.result()

    async def work() -> None:
        first, second, third = (
            patient(b"first run of all", 1),
            patient(b"second run of it", 600),
            patient(b"third run of all", 3),
        )
        for later in (second, third):
            later.driver = first.driver
        for driven in (first, second):
            assert (await without_d(driven)).dropped == {D: Phase.PLAN}
        calling = asyncio.create_task(first.driver.next(D))
        await asyncio.sleep(0)
        running = asyncio.create_task(without_d(third))
        await asyncio.sleep(2)
        assert third.session.phase is Phase.PLAN, "a silo that called is given its time"
        await running
        await calling

    timed(work)


def test_a_silo_that_declines_is_not_waited_for_and_not_asked_again(tmp_path: Path) -> None:
    driven = Driven(plan(4, seconds=60), tmp_path)

    async def decline() -> None:
        await driven.driver.next(D)
        for _ in range(2):  # the same again is harmless
            await driven.driver.decline(D, driven.round.digest, "plan")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await driven.driver.next(D)

    async def work() -> ClosedRound:
        others = [driven.take_part(silo) for silo in (A, B, C)]
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        await asyncio.gather(decline(), *others)
        return await running

    closed, seconds = timed(work)
    assert (closed.survivors, closed.dropped) == ((A, B, C), {D: Phase.PLAN})
    assert seconds < 10
    assert driven.metric("declined_total", release="votes") == 1


def test_a_silo_declines_only_the_round_that_it_was_offered_and_has_not_spoken_in(tmp_path: Path) -> None:
    driven = Driven(plan(4, seconds=1), tmp_path)

    async def work() -> ClosedRound:
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path))
        others = [asyncio.create_task(driven.take_part(silo)) for silo in (A, B, C)]
        await when(arrived(driven, Phase.PLAN, A))
        for silo, digest in ((D, bytes(32)), ("stranger", driven.round.digest)):
            with pytest.raises(UnexpectedMessage, match="declines a round that is not its own"):
                await driven.driver.decline(silo, digest, "plan")
        await driven.driver.decline(A, driven.round.digest, "plan")  # too late: it has accepted
        await driven.take_part(D)
        await asyncio.gather(*others)
        return await running

    closed, _ = timed(work)
    assert closed.survivors == (A, B, C, D)
    assert driven.metric("declined_total", release="votes") == 0


def test_a_silo_that_declined_a_round_is_offered_the_next(tmp_path: Path) -> None:
    driven = Driven(plan(4, seconds=60), tmp_path / "first")
    again = Round(plan(4, seconds=1, run=b"another run 1234"), 0)

    async def work() -> bytes:
        running = asyncio.create_task(driven.driver.run(driven.round, tmp_path / "first"))
        await driven.driver.next(D)
        await driven.driver.decline(D, driven.round.digest, "plan")
        await asyncio.gather(running, *(driven.take_part(silo) for silo in (A, B, C)))
        (tmp_path / "second").mkdir()
        second = asyncio.create_task(driven.driver.run(again, tmp_path / "second"))
        offered = await driven.driver.next(D)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        return offered

    offered, _ = timed(work)
    assert decode(round_pb2.Offer, offered, MESSAGE_LIMIT).round.plan == again.plan.encoded
