"""What both sides of a round are told, in each of its phases."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError

from crypto.encoding.wire import encode
from crypto.names import Phase
from crypto.secagg.session import AggregatorSession, SiloSession
from fuzz.target import Target
from scenarios.world import World, random_lanes
from sparsilo.v1 import round_pb2
from support.plans import plan, signing_keys

KEYS = signing_keys(4)
SILO = "silo-000"


@dataclass
class Recorded:
    """A silo's session, and what it was told."""

    session: SiloSession
    answers: list[bytes] = field(default_factory=list)

    def receive(self, answer: bytes) -> None:
        self.answers.append(answer)
        self.session.receive(answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


@dataclass(frozen=True)
class Stage:
    """Both sides as they were when a phase began, and what they then said to each other."""

    aggregator: AggregatorSession
    silo: SiloSession
    said: bytes
    answered: bytes


@cache
def stages() -> list[Stage]:
    """All of a round in which one silo is lost."""
    world, found = World(plan(), KEYS, {"silo-003": Phase.UPLOAD}), []
    recorded: Any = Recorded(world.silos[SILO])
    world.silos[SILO] = recorded
    lanes = random_lanes(world.plan, seed=0)
    while world.aggregator.phase is not Phase.DONE:
        aggregator, silo = copy(world.aggregator), copy(recorded.session)
        aggregator._messages = {}
        world.step(lanes)
        found.append(Stage(aggregator, silo, copy(silo).message(), recorded.answers[-1]))
    return found


def stage(data: bytes) -> tuple[Stage, bytes]:
    """The first byte chooses the phase."""
    return stages()[data[0] % len(stages()) if data else 0], data[1:]


def in_this_round(kind: Any, data: bytes) -> bytes:
    """The message, if it is one, with the right digest: none gets far with another."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return data
    message.DiscardUnknownFields()
    message.round = stages()[0].silo.round.digest
    return encode(message)


def aggregator_is_told(data: bytes) -> None:
    at, data = stage(data)
    session = copy(at.aggregator)
    session._messages = {}
    session.receive(SILO, in_this_round(round_pb2.SiloMessage, data))


def silo_is_told(data: bytes) -> None:
    at, data = stage(data)
    copy(at.silo).receive(in_this_round(round_pb2.AggregatorMessage, data))


def said() -> Iterator[bytes]:
    for number, at in enumerate(stages()):
        yield bytes([number]) + at.said


def answered() -> Iterator[bytes]:
    for number, at in enumerate(stages()):
        yield bytes([number]) + at.answered


TARGETS = {
    "aggregator_is_told": Target(aggregator_is_told, said, mutants=2000),
    "silo_is_told": Target(silo_is_told, answered, mutants=2000),
}
