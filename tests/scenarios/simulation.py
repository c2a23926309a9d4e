"""A simulated world with a seeded clock: the real drivers, sessions, journal, store and spools of one round, over a
network that loses, doubles, delays and reorders, while silos and the aggregator are killed and started again.

Nothing waits for real time: the event loop's clock jumps to the next thing that is due. One seed is one schedule.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.closed_round import ClosedRound
from aggregator.rounds.round_driver import RoundDriver
from aggregator.rounds.running_round import RunningRound
from crypto.backends.double_masking.silo import DoubleMaskingSilo
from crypto.encoding.layout import Chunk
from crypto.encoding.wire import MESSAGE_LIMIT, decode
from crypto.errors import ConnectionFailed, SparsiloError
from crypto.names import Phase
from crypto.plan import least_threshold
from crypto.plan_rules import checked_plan, decode_plan
from crypto.secagg.round import Round
from scenarios.world import Lanes, plain_sum, random_lanes
from silo_agent.consent.ledger import Release
from silo_agent.consent.state_store import StateStore
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.rounds.one_round import one_round
from sparsilo.v1 import round_pb2, words_pb2
from support.driven import listed
from support.plans import plan_message, signing_keys
from support.simulated_time import SeededLoop

Result = TypeVar("Result")

PHASES = [phase for phase in Phase if phase not in (Phase.DONE, Phase.ABORTED)]
POLL_SECONDS, RECONNECT_SECONDS = 30.0, 60.0  # docs/protocol.md, 7.3
HOURS = 24 * 3600.0


class Lost(Exception):
    """The connection broke."""


class KillableDriver(RoundDriver):
    """Killed, it tells nobody."""

    killed = False

    async def _abort(self, running: RunningRound, reason: str) -> None:
        if not self.killed:
            await super()._abort(running, reason)


@dataclass(frozen=True)
class Kill:
    """Somebody (None: the aggregator) dies soon after a phase began, and comes back, or not."""

    silo: str | None
    phase: Phase
    after: float
    back: float | None


@dataclass
class Schedule:
    """All that chance decides, from one seed."""

    seed: int
    kills: list[Kill] | None = None
    """None: by chance."""
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = chance = random.Random(self.seed)
        silos = chance.randint(3, 12)
        colluders = chance.randint(0, max(0, (silos - 3) // 3))
        threshold = chance.randint(least_threshold(silos, colluders, honest=2), silos)
        message = plan_message(
            silos,
            threshold=threshold,
            colluders=colluders,
            least_survivors=chance.randint(threshold, silos) if chance.random() < 0.3 else None,
            shape=(chance.randint(1, 6), chance.randint(1, 20)),
            tensors=chance.randint(1, 2),
            chunk_words=chance.randint(1, 4),
            run=sha256(str(self.seed).encode()).digest()[:16],
        )
        message.preparation_seconds = 30
        self.plan = checked_plan(message)
        self.loss = chance.choice((0.0, 0.01, 0.05, 0.2))
        self.doubled = chance.choice((0.0, 0.1))
        self.delay = chance.choice((0.001, 0.05, 0.5))
        if self.kills is None:
            self.kills = [self._kill() for _ in range(chance.choice((0, 0, 1, 1, 2, 3)))]

    def _kill(self) -> Kill:
        chance = self.chance
        return Kill(
            silo=None if chance.random() < 0.35 else chance.choice(self.plan.silos),
            phase=chance.choice(PHASES),
            after=chance.expovariate(2 / self.delay),
            back=chance.expovariate(0.5) if chance.random() < 0.8 else None,
        )


class Values:
    """A silo's lanes as a release."""

    def __init__(self, lanes: Mapping[str, Lanes]) -> None:
        self._lanes = lanes

    def lanes(self, chunk: Chunk) -> Lanes:
        return self._lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes]


class Simulation:
    """Run one schedule; afterwards `closed` or `failure` says how the aggregator ended, `ended` how each silo did."""

    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule, self.folder = schedule, folder
        self.chance = schedule.chance
        self.round = Round(schedule.plan, 0, b"")
        self.keys = signing_keys(len(schedule.plan.silos))
        self.lanes = random_lanes(schedule.plan, schedule.seed)
        self.driver: KillableDriver | None = None
        self.closed: ClosedRound | None = None
        self.failure: SparsiloError | None = None
        self.ended: dict[str, SparsiloError | None] = {}
        self.moves: set[tuple[str, Phase, Phase]] = set()
        """Role, from, to: the transitions that happened."""

    def run(self) -> None:
        loop = SeededLoop(self.chance)
        try:
            loop.run_until_complete(asyncio.wait_for(self._all(), HOURS))
        finally:
            loop.close()

    def check(self) -> None:
        """Exact over the survivors, or a typed abort; nobody says done of a round that failed."""
        if self.closed is None:
            assert self.failure is not None, "the aggregator ended without a sum and without an error"
            assert all(error is not None for error in self.ended.values()), "a silo is done with a round that failed"
            return
        survivors = self.closed.survivors
        assert len(survivors) >= self.schedule.plan.message.least_survivors
        opened: dict[str, list[int]] = {section.name: [] for section in self.round.layout.sections}
        for chunk, values in self.closed.opened.chunks():
            opened[chunk.section.name] += values.tolist()
        assert opened == plain_sum(self.lanes, survivors)

    async def _all(self) -> None:
        self._phases: dict[str, asyncio.Event] = {phase: asyncio.Event() for phase in PHASES}
        self._restart: dict[str | None, float | None] = {}
        self._running: dict[str | None, asyncio.Task[None]] = {}
        lives = [self._life(silo, partial(self._silo, silo)) for silo in self.schedule.plan.silos]
        saboteurs = [asyncio.create_task(self._sabotage(kill)) for kill in self.schedule.kills or ()]
        await asyncio.gather(self._life(None, self._aggregator), *lives)
        for saboteur in saboteurs:
            saboteur.cancel()

    # Processes

    async def _life(self, who: str | None, process: Callable[[], Awaitable[None]]) -> None:
        """A process, started again after every kill that says so."""
        while True:
            task = self._running[who] = asyncio.ensure_future(process())
            with suppress(asyncio.CancelledError):
                await task
                return
            back = self._restart.pop(who, None)
            if back is None:
                break
            await asyncio.sleep(back)
        if who is None:
            self.failure = ConnectionFailed("the aggregator died")
        else:
            self.ended[who] = ConnectionFailed("the silo died")

    async def _sabotage(self, kill: Kill) -> None:
        await self._phases[kill.phase].wait()
        await asyncio.sleep(kill.after)
        if kill.silo is None and self.driver is not None:
            self.driver.killed = True
            self.driver = None
        task = self._running.get(kill.silo)
        if task is not None and not task.done():
            self._restart[kill.silo] = kill.back
            task.cancel()

    async def _aggregator(self) -> None:
        self.driver = driver = KillableDriver(AggregatorMetrics(CollectorRegistry()), self._watch)
        before = Phase.PLAN
        try:
            self.closed = await driver.run(self.round, self.folder)
            before, after = Phase.AUDIT, Phase.DONE
        except SparsiloError as error:
            self.failure = error
            before, after = self._present, Phase.ABORTED
        self.moves.add(("aggregator", before, after))
        await driver.finish()

    def _watch(self, phase: str, _arrived: int, _expected: int) -> None:
        present = Phase(phase)
        if present is not Phase.PLAN and not self._phases[present].is_set():
            self.moves.add(("aggregator", PHASES[PHASES.index(present) - 1], present))
        self._present = present
        self._phases[phase].set()

    async def _silo(self, silo: str) -> None:
        store = StateStore(self.folder / f"{silo}.sqlite")
        session: DoubleMaskingSilo | None = None
        phase = Phase.PLAN
        try:
            while (offer := await self._offer(silo)).HasField("round"):
                assert decode_plan(offer.round.plan) == self.schedule.plan
                round_ = self.round
                release = Release.of(round_, silo.encode())
                session = DoubleMaskingSilo(self.round, silo, self.keys[silo], self.chance.randbytes)
                calls = one_round(session, partial(Values, self.lanes[silo]), release, store, 1)
                answer = None
                with suppress(StopIteration):
                    while True:
                        call = calls.send(answer)
                        self._moved(phase, session.phase)
                        phase = session.phase
                        answer = await self._perform(silo, call)
                self._moved(phase, session.phase)
            self.ended[silo] = None if session is not None else ConnectionFailed("heard of the round when it was over")
        except SparsiloError as error:
            self.ended[silo] = error
            if session is not None:
                self._moved(phase, session.phase)

    def _moved(self, before: Phase, after: Phase) -> None:
        if before is not after:
            self.moves.add(("silo", before, after))

    # Network

    async def _perform(self, silo: str, call: Call) -> bytes | None:
        match call:
            case Advance(message):
                return await self._call(self._advance, silo, message)
            case Upload(request, chunks):
                await self._call(self._upload, silo, request, chunks)
            case Committed(request_from, take):
                take(await self._call(self._committed, silo, request_from(0)))
        return None

    async def _call(self, handler: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
        """As silo_agent/network/transport does it: wait, ask again, and give up after a minute without a connection."""
        lost_at: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await asyncio.wait_for(self._attempt(handler, *arguments), POLL_SECONDS)
            except TimeoutError:
                lost_at = None
            except Lost:
                lost_at = loop.time() if lost_at is None else lost_at
                if loop.time() - lost_at > RECONNECT_SECONDS:
                    raise ConnectionFailed("the aggregator cannot be reached") from None
                await asyncio.sleep(self.chance.uniform(0.2, 5))

    async def _attempt(self, handler: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
        """One request, perhaps twice, and its response, either of which may be lost or late."""
        await self._travel()
        driver = self.driver
        if driver is None:
            raise Lost
        served = [asyncio.ensure_future(handler(driver, *arguments))]
        if self.chance.random() < self.schedule.doubled and handler != self._upload:  # no network doubles a stream
            await self._delay()
            served.append(asyncio.ensure_future(handler(driver, *arguments)))
        try:
            while True:  # a killed aggregator answers nobody
                done, _ = await asyncio.wait(served, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                if self.driver is not driver:
                    raise Lost
                if done:
                    break
        finally:
            for task in served:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    task.done() and task.exception()
        await self._travel()
        return done.pop().result()

    async def _delay(self) -> None:
        await asyncio.sleep(self.chance.expovariate(1 / self.schedule.delay))

    async def _travel(self) -> None:
        await self._delay()
        if self.chance.random() < self.schedule.loss:
            raise Lost

    async def _offer(self, silo: str) -> round_pb2.Offer:
        return decode(round_pb2.Offer, await self._call(self._next, silo), MESSAGE_LIMIT)

    async def _next(self, driver: RoundDriver, silo: str) -> bytes:
        return await driver.next(silo)

    async def _advance(self, driver: RoundDriver, silo: str, message: bytes) -> bytes:
        return await driver.advance(silo, message)

    async def _upload(
        self, driver: RoundDriver, silo: str, request: bytes, chunks: Callable[[int], Iterator[bytes]]
    ) -> None:
        asked = decode(words_pb2.HeldRequest, request, MESSAGE_LIMIT)
        held = decode(words_pb2.HeldReply, await driver.held(silo, asked.round), MESSAGE_LIMIT).chunks
        await self._travel()

        async def travelling() -> AsyncIterator[bytes]:
            for chunk in chunks(held):
                await self._travel()
                yield chunk

        receipt = decode(words_pb2.UploadReceipt, await driver.upload(silo, travelling()), MESSAGE_LIMIT)
        assert receipt.chunks == len(self.round.layout.chunks)

    async def _committed(self, driver: RoundDriver, silo: str, request: bytes) -> list[bytes]:
        asked = decode(words_pb2.CommittedRequest, request, MESSAGE_LIMIT)
        return await listed(driver.committed(silo, asked.round, asked.index))
