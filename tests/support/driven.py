"""Around a RoundDriver: silos as coroutines in its event loop, without a network; or the servicer on loopback."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from aggregator.edge.servicer import serve
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.closed_round import ClosedRound
from aggregator.rounds.round_driver import RoundDriver
from aggregator.silos.admission import known, utc_now
from crypto.encoding.layout import Chunk
from crypto.encoding.wire import MESSAGE_LIMIT, decode
from crypto.identity import Certified
from crypto.names import Phase
from crypto.plan import Plan
from crypto.plan_rules import checked_plan, decode_plan
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession, SiloSession
from scenarios.world import Lanes, World, random_lanes
from silo_agent.consent.ledger import Release
from silo_agent.consent.state_store import StateStore
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.rounds.one_round import one_round
from sparsilo.v1 import round_pb2, words_pb2
from support.plans import plan_message, signing_keys

Result = TypeVar("Result")


def plan(silos: int = 4, *, seconds: int = 60, rate: int = 0, **fields: object) -> Plan:
    """A plan whose phases, PLAN among them, give a silo so many seconds, and words that come at that rate."""
    message = plan_message(silos, **fields)  # type: ignore[arg-type]
    message.phase_seconds = message.preparation_seconds = seconds
    message.least_bytes_per_second = rate
    return checked_plan(message)


def release_of(round_: Round) -> Release:
    """What a silo whose calibration file hashes to zeros notes of a round."""
    return Release.of(round_, bytes(32))


@dataclass
class LanesRelease:
    """A release of given lanes, by section."""

    values: Mapping[str, Lanes]

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        return self.values[chunk.section.name][chunk.start : chunk.start + chunk.lanes]


async def iterate(messages: Iterator[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def listed(stream: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in stream]


async def held_of(driver: RoundDriver, silo: str, round_digest: bytes) -> int:
    return decode(words_pb2.HeldReply, await driver.held(silo, round_digest), MESSAGE_LIMIT).chunks


class Driven:
    """One driver and the silos of one plan, each an agent's `one_round`. Lives in one event loop."""

    def __init__(self, plan: Plan, folder: Path, round_: Round | None = None) -> None:
        self.registry = CollectorRegistry()
        self.watched: list[tuple[str, int, int]] = []
        self.driver = RoundDriver(AggregatorMetrics(self.registry), lambda *now: self.watched.append(now))
        self.round = round_ = round_ or Round(plan, 0)
        self.folder = folder
        self.lanes: Mapping[str, Mapping[str, Lanes]] = random_lanes(plan, 5, round_)
        self.silos: dict[str, SiloSession] = World(plan, signing_keys(len(plan.silos)), round_=round_).silos
        self.said: list[tuple[str, bytes, bytes]] = []
        """Silo, message and answer of every phase that a silo was answered in."""
        self._rounds = {silo: self._one_round(silo) for silo in round_.silos}
        self._calls: dict[str, Call] = {}

    @property
    def session(self) -> AggregatorSession:
        """The driver's, of the present round."""
        assert self.driver._round is not None
        return self.driver._round.session

    def has_begun(self, round_: Round) -> bool:
        """Whether a round is the driver's present one."""
        return self.driver._round is not None and self.driver._round.session.round is round_

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"sparsilo_aggregator_{name}", labels)

    def _one_round(self, silo: str) -> Any:
        store = StateStore(self.folder / "agents" / silo / "agent.sqlite")
        release = LanesRelease(self.lanes[silo])
        return one_round(self.silos[silo], lambda: release, release_of(self.round), store, 1)

    def call(self, silo: str) -> Call:
        """What this silo does next, which it then has not done."""
        if silo not in self._calls:
            self._calls[silo] = next(self._rounds[silo])
        return self._calls[silo]

    def chunks(self, silo: str, held: int = 0) -> Iterator[bytes]:
        """What the silo uploads now, masked as it is asked for."""
        call = self.call(silo)
        assert isinstance(call, Upload)
        return call.chunks(held)

    async def step(self, silo: str) -> None:
        """The silo's next call and what came back."""
        answer = await self.perform(silo, self.call(silo))
        try:
            self._calls[silo] = self._rounds[silo].send(answer)
        except StopIteration:
            del self._calls[silo]

    async def perform(self, silo: str, call: Call) -> bytes | None:
        """As an agent's transport does."""
        match call:
            case Advance(message):
                answer = await self.driver.advance(silo, message)
                self.said.append((silo, message, answer))
                return answer
            case Upload():
                await self.upload(silo)
            case Committed(request, take):
                asked = decode(words_pb2.CommittedRequest, request(0), MESSAGE_LIMIT)
                take(await listed(self.driver.committed(silo, asked.round, asked.index)))
        return None

    async def upload(self, silo: str) -> None:
        held = await held_of(self.driver, silo, self.round.digest)
        await self.driver.upload(silo, iterate(self.chunks(silo, held)))

    async def take_part(self, silo: str, until: Phase = Phase.DONE) -> None:
        """From the offer to DONE; with `until`, silent from that phase on."""
        session = self.silos[silo]
        offer = decode(round_pb2.Offer, await self.driver.next(silo), MESSAGE_LIMIT).round
        assert Round(decode_plan(offer.plan), offer.index, offer.input, tuple(offer.cohort)) == session.round
        while session.phase is not until:
            await self.step(silo)

    async def run(self, lost: Mapping[str, Phase] | None = None) -> ClosedRound:
        """A whole round; `lost` silos fall silent in their phase."""
        silos = [self.take_part(silo, (lost or {}).get(silo, Phase.DONE)) for silo in self.silos]
        running = asyncio.create_task(self.driver.run(self.round, self.folder))
        await asyncio.gather(running, *silos)
        return running.result()


@contextmanager
def looping() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine on another thread's loop."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(300)


@contextmanager
def serving(driver: RoundDriver, silos: Iterable[str], own: Certified, authority: bytes) -> Iterator[int]:
    """The servicer on loopback; its port."""
    with looping() as loop:
        server, port = on(
            loop, serve(driver, known(frozenset(silos), utc_now), "127.0.0.1:0", lambda: (own, authority))
        )
        try:
            yield port
        finally:
            on(loop, server.stop())
