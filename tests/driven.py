"""Around a RoundDriver: silos as coroutines in its event loop, without a network; or the servicer on loopback."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.round_driver import ClosedRound, RoundDriver
from aggregator.servicer import serve
from crypto.encoding.layout import pack_chunk
from crypto.identity import Certified
from crypto.names import Phase
from crypto.plan import Plan
from crypto.primitives import merkle
from crypto.secagg.session import Round, SiloSession
from crypto.secagg.wire import decode, encode
from plans import plan_message, signing_keys
from scenarios.world import Lanes, World, random_lanes
from silo_agent.transport import MESSAGE_LIMIT
from sparsilo.v1 import round_pb2, words_pb2

Result = TypeVar("Result")


def plan(silos: int = 4, *, seconds: int = 60, **fields: object) -> Plan:
    """A plan whose phases, PLAN among them, close after so many seconds of silence."""
    message = plan_message(silos, **fields)  # type: ignore[arg-type]
    message.phase_seconds = message.preparation_seconds = seconds
    return Plan.of(message)


async def iterate(messages: Iterator[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


class Driven:
    """One driver and the silos of one plan. Lives in one event loop."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.registry = CollectorRegistry()
        self.watched: list[tuple[str, int, int]] = []
        self.driver = RoundDriver(AggregatorMetrics(self.registry), lambda *now: self.watched.append(now))
        self.round = Round(plan, 0, b"")
        self.folder = folder
        self.lanes: Mapping[str, Mapping[str, Lanes]] = random_lanes(plan, seed=5)
        self.silos: dict[str, SiloSession] = World(plan, signing_keys(len(plan.silos))).silos
        self.said: list[tuple[str, bytes, bytes]] = []
        """Silo, message and answer of every phase that a silo was answered in."""

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"sparsilo_aggregator_{name}", labels)

    def chunks(self, silo: str) -> Iterator[bytes]:
        """Encoded WordChunks, masked as they are asked for."""
        session = self.silos[silo]
        for chunk in self.round.plan.layout(0).chunks:
            words = pack_chunk(chunk, self.lanes[silo][chunk.section.name][chunk.start : chunk.start + chunk.lanes])
            session.mask_chunk(chunk.index, words)
            data = words.astype("<u8").tobytes()
            yield encode(words_pb2.WordChunk(round=self.round.digest, index=chunk.index, words=data))

    async def upload(self, silo: str) -> None:
        chunks = list(self.chunks(silo))
        await self.driver.upload(silo, iterate(iter(chunks)))
        words = [decode(words_pb2.WordChunk, chunk, MESSAGE_LIMIT).words for chunk in chunks]
        self.silos[silo].uploaded(merkle.root([merkle.leaf(data) for data in words]))

    async def speak(self, silo: str) -> None:
        """The present phase's message and its answer."""
        session = self.silos[silo]
        message = session.message()
        answer = await self.driver.advance(silo, message)
        self.said.append((silo, message, answer))
        session.receive(answer)

    async def take_part(self, silo: str, until: Phase = Phase.DONE) -> None:
        """From the offer to DONE; with `until`, silent from that phase on."""
        session = self.silos[silo]
        offer = decode(round_pb2.Offer, await self.driver.next(silo), MESSAGE_LIMIT).round
        assert Round(Plan.decode(offer.plan), offer.index, offer.input) == session.round
        while session.phase is not until:
            if session.phase is Phase.UPLOAD:
                await self.upload(silo)
            await self.speak(silo)

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
    return asyncio.run_coroutine_threadsafe(work, loop).result(20)


@contextmanager
def serving(driver: RoundDriver, silos: Iterable[str], own: Certified, authority: bytes) -> Iterator[int]:
    """The servicer on loopback; its port."""
    with looping() as loop:
        server, port = on(loop, serve(driver, frozenset(silos), "127.0.0.1:0", own, authority))
        try:
            yield port
        finally:
            on(loop, server.stop(None))
