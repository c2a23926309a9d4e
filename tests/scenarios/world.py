"""A simulated world: every silo and the aggregator of one round in one process, with no clock, disk or network.

Each silo holds a vector of lanes per section. `lost` says in which phase a silo falls silent: from then on nothing
of it arrives (in UPLOAD: after some of its chunks, as when its process is killed).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crypto.backends.backend_spec import backend_spec
from crypto.encoding.layout import open_chunk, pack_chunk
from crypto.names import Phase
from crypto.plan import Plan
from crypto.primitives import merkle
from crypto.primitives.signing import SigningKey
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession, SiloSession
from sparsilo.v1 import words_pb2

Lanes = NDArray[np.uint64]


@dataclass
class World:
    plan: Plan
    keys: Mapping[str, SigningKey]
    lost: Mapping[str, Phase] = field(default_factory=dict)
    round_: Round | None = None
    """None: the plan's first, of the whole roster."""

    def __post_init__(self) -> None:
        self.round = self.round_ or Round(self.plan, 0)
        self.layout = self.round.layout
        self.silos: dict[str, SiloSession] = {silo: self.make_silo(silo) for silo in self.round.silos}
        self.aggregator: AggregatorSession = backend_spec(self.plan.backend).aggregator_session(self.round)
        self.wire: dict[str, list[bytes]] = {}
        """Each silo's masked chunks, as the aggregator sees them."""
        self.opened: list[bytes] = []
        """The chunks of the opened sum."""

    def make_silo(self, silo: str) -> SiloSession:
        return backend_spec(self.plan.backend).silo_session(self.round, silo, self.keys[silo], secrets.token_bytes)

    def speaks(self, silo: str, phase: Phase) -> bool:
        phases = list(Phase)
        return silo not in self.lost or phases.index(phase) < phases.index(self.lost[silo])

    def upload(self, silo: str, lanes: Mapping[str, Lanes]) -> None:
        chunks = []
        for chunk in self.layout.chunks:
            words = pack_chunk(chunk, lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes])
            chunks.append(self.silos[silo].masked(chunk.index, words))
        self.wire[silo] = chunks
        self.aggregator.uploaded(silo, tree(chunks).root)

    def run(self, lanes: Mapping[str, Mapping[str, Lanes]]) -> dict[str, Lanes]:
        """All phases; the opened sums by section."""
        while self.aggregator.phase is not Phase.DONE:
            self.step(lanes)
        return self.open()

    def step(self, lanes: Mapping[str, Mapping[str, Lanes]]) -> None:
        """One phase."""
        phase = self.aggregator.phase
        for silo in self.aggregator.expected:
            if phase is Phase.UPLOAD and self.speaks(silo, Phase.UPLOAD):
                self.upload(silo, lanes[silo])
            if self.speaks(silo, phase):
                for index in self.silos[silo].assigned if phase is Phase.AUDIT else ():
                    self.silos[silo].audit(index, self.committed(index))
                self.aggregator.receive(silo, self.silos[silo].message())
        if phase is Phase.UNMASK:
            self.aggregator.recover()
            self.opened = self.open_sum()
            self.aggregator.summed(tree(self.opened).root)
        for silo, answer in self.aggregator.close_phase().items():
            self.silos[silo].receive(answer)

    def open_sum(self) -> list[bytes]:
        """The survivors' words added and unmasked, as the aggregator would publish them."""
        opened = []
        for chunk in self.layout.chunks:
            total = np.zeros(chunk.words, np.uint64)
            for silo in self.aggregator.survivors:
                total += np.frombuffer(self.wire[silo][chunk.index], "<u8")
            self.aggregator.unmask_chunk(chunk.index, total)
            opened.append(total.astype("<u8").tobytes())
        return opened

    def committed(self, index: int) -> list[words_pb2.CommittedChunk]:
        """What an auditor of a chunk is sent."""
        vectors = [(silo, self.wire[silo]) for silo in self.aggregator.survivors] + [("", self.opened)]
        return [
            words_pb2.CommittedChunk(silo=silo, words=words[index], path=tree(words).path(index))
            for silo, words in vectors
        ]

    def open(self) -> dict[str, Lanes]:
        opened = {section.name: np.zeros(section.lanes, np.uint64) for section in self.layout.sections}
        for chunk, data in zip(self.layout.chunks, self.opened or self.open_sum(), strict=True):
            values = open_chunk(chunk, np.frombuffer(data, "<u8"), len(self.aggregator.survivors))
            opened[chunk.section.name][chunk.start : chunk.start + chunk.lanes] = values
        return opened


def tree(chunks: Sequence[bytes]) -> merkle.Tree:
    return merkle.Tree([merkle.leaf(data) for data in chunks])


def random_lanes(plan: Plan, seed: int, round_: Round | None = None) -> dict[str, dict[str, Lanes]]:
    """For every silo and section, lanes as large as a sum over all silos may be without a carry."""
    random, round_ = np.random.default_rng(seed), round_ or Round(plan, 0)
    return {
        silo: {
            section.name: random.integers(
                0, ((1 << section.width) - 1) // len(round_.silos), section.lanes, dtype=np.uint64, endpoint=True
            )
            for section in round_.layout.sections
        }
        for silo in round_.silos
    }


def plain_sum(lanes: Mapping[str, Mapping[str, Lanes]], silos: tuple[str, ...]) -> dict[str, list[int]]:
    """The sum in Python integers, over those silos."""
    sections = next(iter(lanes.values()))
    return {
        name: [sum(int(lanes[silo][name][at]) for silo in silos) for at in range(len(sections[name]))]
        for name in sections
    }
