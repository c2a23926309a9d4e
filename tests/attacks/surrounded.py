"""One agent as it is started, among an aggregator and silos that somebody else plays: all that can be seen of it."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import ProtocolError
from crypto.names import Backend, Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from scenarios.world import Lanes, World, tree
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.rounds import round_driver
from sparsilo.v1 import plan_pb2, round_pb2, words_pb2
from support.plans import signing_keys

VICTIM = "silo-002"

Seen = tuple[str, object]
"""What was called, and what of it depends neither on keys and masks nor on the words themselves."""


class AllSeen(Exception):
    """The agent was told that all is over, and goes on."""


class Surrounded:
    """In the transport's place: offers the rounds of a plan one after the other and plays everybody else in them."""

    def __init__(self, plan: plan_pb2.Plan, folder: Path, files: Mapping[bytes, Path] | None = None) -> None:
        self.plan, self._folder, self._files = checked_plan(plan), folder, files or {}
        self.seen: list[Seen] = []
        self.worlds: list[World] = []
        self.now = 0.0
        self._offered = self._due = -1
        self._is_over = False

    # The aggregator's clock, which is the agent's too.

    def sleep(self, seconds: float) -> None:
        if self._is_over:
            raise AllSeen  # an agent that stays would ask for ever
        self.seen.append(("sleeps until", self.now + seconds))
        self.now += seconds

    # What an agent calls.

    def next(self) -> round_pb2.Offer:
        from silo_agent.opened_sums.opened_rounds import Start

        self.seen.append(("Next", self.now))
        self._offered += 1
        if self._offered == len(self.plan.message.rounds) or self._declined:
            self._is_over = True
            return round_pb2.Offer(over=round_pb2.Over())
        start = Start(self.plan, [opened(world, self._folder) for world in self.worlds])
        self.worlds.append(World(self.plan, signing_keys(len(self.plan.silos)), round_=start.round))
        round_ = self.world.round
        offered = round_pb2.RoundOffer(
            plan=self.plan.encoded, index=round_.index, input=round_.input_digest, cohort=round_.cohort
        )
        return round_pb2.Offer(round=offered)

    @property
    def _declined(self) -> bool:
        return any(call == "Decline" for call, _ in self.seen)

    @property
    def world(self) -> World:
        return self.worlds[-1]

    def decline(self, round_digest: bytes, reason: str) -> None:
        assert round_digest == self.world.round.digest
        self.seen.append(("Decline", reason))

    def withdraw(self, round_digest: bytes, signature: bytes) -> list[tuple[str, bytes]]:
        self.seen.append(("Withdraw", round_digest))
        return []

    def download(self, request: words_pb2.FileRequest, file: Path, most: int) -> None:
        kind = request.WhichOneof("file") or ""
        self.seen.append(("File", kind))
        [world] = [world for world in self.worlds if world.round.digest == getattr(request, kind)]
        file.write_bytes(b"".join(world.opened))
        assert file.stat().st_size <= most

    def candidate(self, digest: bytes, file: Path, most: int) -> None:
        self.seen.append(("File", digest))
        if digest not in self._files:
            raise ProtocolError("no such candidate", party="aggregator")
        assert self._files[digest].stat().st_size <= most
        file.write_bytes(self._files[digest].read_bytes())

    def perform(self, call: Call) -> bytes | None:
        match call:
            case Advance(message):
                body = decode(round_pb2.SiloMessage, message, MESSAGE_LIMIT).WhichOneof("body")
                said = message.replace(self.world.round.digest, b"")  # which depends on earlier sums
                is_random = self.plan.backend is Backend.DOUBLE_MASKING or body == "upload_root"
                self.seen.append((f"Advance {body}", len(message) if is_random else said))
                return self._advance(message)
            case Upload(_, chunks):
                self.world.wire[VICTIM] = [decode(words_pb2.WordChunk, data, MESSAGE_LIMIT).words for data in chunks(0)]
                self.seen.append(("Upload", tuple(map(len, self.world.wire[VICTIM]))))
            case Committed(request, take):
                index = decode(words_pb2.CommittedRequest, request(0), MESSAGE_LIMIT).index
                take(map(encode, self.world.committed(index)))  # which chunks, the coins decide
        return None

    def _advance(self, message: bytes) -> bytes:
        """Everybody else speaks, and the phase closes."""
        world, aggregator = self.world, self.world.aggregator
        if aggregator.phase is Phase.UPLOAD:
            aggregator.uploaded(VICTIM, tree(world.wire[VICTIM]).root)
        aggregator.receive(VICTIM, message)
        for silo in aggregator.expected:
            if silo == VICTIM:
                continue
            if aggregator.phase is Phase.UPLOAD:
                world.upload(silo, usual_lanes(world.round))
            for index in world.silos[silo].assigned if aggregator.phase is Phase.AUDIT else ():
                world.silos[silo].audit(index, world.committed(index))
            aggregator.receive(silo, world.silos[silo].message())
        if aggregator.phase is Phase.UNMASK:
            aggregator.recover()
            world.opened = world.open_sum()
            aggregator.summed(tree(world.opened).root)
        answers = aggregator.close_phase()
        if not world.opened and aggregator.phase is Phase.DONE:  # a backend without UNMASK
            world.opened = world.open_sum()
        for silo, answer in answers.items():
            if silo != VICTIM:
                world.silos[silo].receive(answer)
        return answers[VICTIM]


def opened(world: World, folder: Path) -> Any:
    """What a round that is over left to the next one."""
    from silo_agent.opened_sums.opened_sum import OpenedRound

    file = folder / f"{world.round.index}.opened"
    file.write_bytes(b"".join(world.opened))
    return OpenedRound(world.round, len(world.aggregator.survivors), tree(world.opened).root, file)


def usual_lanes(round_: Round) -> dict[str, Lanes]:
    """What another silo could have: it keeps nothing, changes nothing and has counted nothing."""
    lanes = {section.name: np.zeros(section.lanes, np.uint64) for section in round_.layout.sections}
    for name, values in lanes.items():
        values[0] = name.startswith("scale ")
    return lanes


def watched(
    approached: Any, plan: plan_pb2.Plan, monkeypatch: pytest.MonkeyPatch, files: Mapping[bytes, Path] | None = None
) -> Surrounded:
    """All that is seen of an agent from its start until it is told that all is over."""
    folder = approached.config.state.parent / "outside"
    folder.mkdir(exist_ok=True)
    around: Any = Surrounded(plan, folder, files)
    monkeypatch.setattr(round_driver, "sleep", around.sleep)
    monkeypatch.setattr(round_driver, "monotonic", lambda: around.now)
    driven(approached.config, around)
    return around


def driven(config: Any, around: Any) -> None:
    """The agent as it is started, until it ends."""
    from prometheus_client import CollectorRegistry

    from silo_agent.host.metrics import SiloMetrics

    metrics, nothing = SiloMetrics(CollectorRegistry()), lambda *_: None
    with suppress(AllSeen):
        round_driver.Agent(config, around, metrics, nothing, nothing, nothing, nothing).run()
