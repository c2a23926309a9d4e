"""What attacks share: five silos, an aggregator that relays what the attacker likes, and what an attacker computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.rounds.spool import Spool
from crypto.backends.double_masking.transcript import pairwise_sign, participants_digest
from crypto.backends.double_masking.unmasking import Masked, Revealed
from crypto.encoding.layout import Chunk, open_chunk, pack_chunk
from crypto.encoding.wire import encode
from crypto.errors import BadUpload, ProtocolError, SparsiloError, UnexpectedMessage
from crypto.names import Phase
from crypto.plan_rules import checked_plan
from crypto.primitives import signing
from crypto.primitives.mask_stream import add_masks
from crypto.secagg.round import Round
from crypto.secagg.session import SiloSession
from scenarios.world import Lanes, World, plain_sum, tree
from silo_agent.consent.ledger import Release
from silo_agent.consent.state_store import StateStore
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.releases.silo_side import expanded_tensors
from silo_agent.rounds.one_round import one_round
from sparsilo.v1 import round_pb2, words_pb2
from support.plans import plan_message, signing_keys, silo_names

SILOS = silo_names(5)
ZERO, ONE, TWO, THREE, FOUR = SILOS
AGGREGATOR = "aggregator"
PHASES = [phase for phase in Phase if phase not in (Phase.DONE, Phase.ABORTED)]
Edit = Callable[[Any], Any]
Opened = dict[str, list[int]]


class Stage(World):
    """Five silos, three enough, brought to one phase by an honest aggregator. From there on the attacker directs."""

    def __init__(
        self,
        until: Phase = Phase.PLAN,
        lost: Mapping[str, Phase] | None = None,
        samples: int = 4,
        round_: Round | None = None,
        **fields: Any,
    ) -> None:
        message = plan_message(**{"silos": 5, "threshold": 3, **fields})
        message.pruning.samples = samples
        agreed = checked_plan(message) if round_ is None else round_.plan
        super().__init__(agreed, signing_keys(len(agreed.silos), agreed.suite), lost or {}, round_)
        self.lanes = keep_masks(self.round)
        self.said: dict[tuple[str, Phase], bytes] = {}
        """What the aggregator heard."""
        self.lies: dict[tuple[str, Phase], Edit] = {}
        """What a dishonest silo changes in its message of a phase."""
        self.forge: Callable[[dict[str, Lanes]], object] | None = None
        """What an aggregator changes in the opened sum before it commits to it."""
        self.go_on(until)

    def go_on(self, until: Phase) -> None:
        while self.aggregator.phase is not until:
            self.step(self.lanes)

    def step(self, lanes: Mapping[str, Mapping[str, Lanes]]) -> None:
        for silo, answer in self.answers().items():
            self.silos[silo].receive(answer)

    def speak(self, silo: str) -> None:
        """What an honest silo does in the present phase, up to its message."""
        phase, session = self.aggregator.phase, self.silos[silo]
        if phase is Phase.UPLOAD and silo not in self.wire:
            self.upload(silo, self.lanes[silo])
        for index in session.assigned if phase is Phase.AUDIT else ():
            session.audit(index, self.committed(index))
        message = session.message()
        if (silo, phase) in self.lies:
            message = altered(message, self.lies[silo, phase], round_pb2.SiloMessage)
        self.said[silo, phase] = message
        self.aggregator.receive(silo, message)

    def answers(self) -> dict[str, bytes]:
        """Everybody speaks and the phase closes; nothing is delivered yet."""
        phase = self.aggregator.phase
        for silo in self.aggregator.expected:
            if self.speaks(silo, phase) and silo not in self.aggregator.arrived:
                self.speak(silo)
        if phase is Phase.UNMASK:
            self.aggregator.recover()
            self.opened = self.open_sum()
            if self.forge is not None:
                self.opened = self.forged()
            self.aggregator.summed(tree(self.opened).root)
        return self.aggregator.close_phase()

    def forged(self) -> list[bytes]:
        """The opened chunks anew, after `forge` has changed the lanes, as if these were the sum."""
        assert self.forge is not None
        opened, chunks = self.open(), []
        self.forge(opened)
        for chunk in self.layout.chunks:
            words = pack_chunk(chunk, opened[chunk.section.name][chunk.start : chunk.start + chunk.lanes])
            words[0] = len(self.aggregator.survivors)
            chunks.append(words.astype("<u8").tobytes())
        return chunks

    def upload_words(self, silo: str, words: Sequence[NDArray[np.uint64]]) -> None:
        """A dishonest silo uploads these words, masked, whatever the rules for lanes are."""
        self.wire[silo] = [self.silos[silo].masked(index, one.copy()) for index, one in enumerate(words)]
        self.aggregator.uploaded(silo, tree(self.wire[silo]).root)

    def packed(self, silo: str) -> list[NDArray[np.uint64]]:
        """An honest silo's words before they are masked."""
        return [
            pack_chunk(chunk, self.lanes[silo][chunk.section.name][chunk.start : chunk.start + chunk.lanes])
            for chunk in self.layout.chunks
        ]

    @property
    def context(self) -> bytes:
        """The participants digest."""
        return participants_digest(self.round.digest, self.aggregator.transcript.participants)

    def auditors(self, index: int) -> list[str]:
        return [silo for silo in self.aggregator.expected if self.aggregator.may_audit(silo, index)]

    def finish(self) -> None:
        """The rest of the round, and its sum is exact over the survivors."""
        self.go_on(Phase.DONE)
        opened = {name: sums.tolist() for name, sums in self.open().items()}
        assert opened == plain_sum(self.lanes, self.aggregator.survivors)


def keep_masks(round_: Round) -> dict[str, dict[str, Lanes]]:
    """Every silo's keep masks and their nonzero counts, as lanes of a votes round."""
    lanes: dict[str, dict[str, Lanes]] = {}
    for silo in round_.silos:
        lanes[silo], random = {}, np.random.default_rng([4, *silo.encode()])  # the same in every round of its layout
        votes, nonzero = round_.layout.sections[::2], round_.layout.sections[1::2]
        for of_votes, of_counts in zip(votes, nonzero, strict=True):
            kept = random.integers(0, 2, of_votes.lanes, dtype=np.uint64)
            lanes[silo][of_votes.name] = kept
            lanes[silo][of_counts.name] = kept.reshape(of_counts.lanes, -1).sum(axis=1, dtype=np.uint64)
    return lanes


def plain(stage: Stage, *silos: str) -> Opened:
    """The true sum over those silos."""
    return plain_sum(stage.lanes, silos)


def publish(stage: Stage, folder: Path) -> Mapping[str, Sequence[int]]:
    """The honest checks of an opened votes round, whose keep masks go to `folder`; its keep counts."""
    import torch

    from silo_agent.opened_sums.opened_rounds import Start
    from silo_agent.opened_sums.opened_sum import OpenedRound
    from silo_agent.pruning.pruned_tensors import PrunedTensors

    weights: Any = SimpleNamespace(tensor=lambda name: torch.ones(6, 10))
    pruned = PrunedTensors(stage.plan, weights, folder)
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "opened_sum"
        file.write_bytes(b"".join(stage.opened))
        opened = OpenedRound(stage.round, len(stage.aggregator.survivors), tree(stage.opened).root, file)
        pruned.add(expanded_tensors(Start(stage.plan, [opened]), opened, weights), opened.survivors)
    return pruned.keep_counts


# What an aggregator may do to a message.


def altered(data: bytes, edit: Edit, kind: Any = round_pb2.AggregatorMessage) -> bytes:
    """The message, its body changed and encoded again."""
    message = kind.FromString(data)
    edit(getattr(message, message.WhichOneof("body")))
    return encode(message)


def told(stage: Stage, **body: Any) -> bytes:
    """An aggregator's message of its own making."""
    return encode(round_pb2.AggregatorMessage(round=stage.round.digest, **body))


def heard(data: bytes) -> Any:
    """The body of a silo's message."""
    message = round_pb2.SiloMessage.FromString(data)
    return getattr(message, message.WhichOneof("body") or "")


def without(field: str, *silos: str) -> Edit:
    """Leaves out the entries of those silos."""

    def edit(body: Any) -> None:
        kept = [item for item in getattr(body, field) if item.silo not in silos]
        body.ClearField(field)
        getattr(body, field).extend(kept)

    return edit


def entry(body: Any, field: str, silo: str) -> Any:
    return next(item for item in getattr(body, field) if item.silo == silo)


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# What an attacker computes from what it holds.


def stripped(stage: Stage, words: Sequence[bytes], masks: Sequence[tuple[bytes, Any]], silos: int = 1) -> Opened:
    """The lanes that are left of masked chunks once `masks` (seeds, signs) are added. Raises CorruptSum for noise."""
    opened: Opened = {}
    for chunk, data in zip(stage.layout.chunks, words, strict=True):
        total = np.frombuffer(data, "<u8").astype(np.uint64)
        add_masks(total, masks, stage.context, chunk.index)
        opened.setdefault(chunk.section.name, []).extend(open_chunk(chunk, total, silos).tolist())
    return opened


def pairwise_of(stage: Stage, silo: str, seeds: Mapping[str, bytes]) -> list[tuple[bytes, Any]]:
    """What removes a silo's pairwise masks."""
    return [(seed, -pairwise_sign(stage.plan, silo, peer)) for peer, seed in seeds.items()]


def difference(one: Opened, other: Opened) -> Opened:
    return {name: [a - b for a, b in zip(one[name], other[name], strict=True)] for name in one}


@contextmanager
def gullible() -> Iterator[None]:
    """As if no signature were checked: what an attack comes to without that defence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing._Ed25519, "verify", lambda *_: None)
        yield


def forget_survivors(session: SiloSession) -> None:
    """Put a silo back into UPLOAD, as if it had never heard who survived: what no rule lets an honest one do."""
    known: Any = session._known  # type: ignore[attr-defined]
    while not isinstance(known, Masked):
        known = known.fixed if isinstance(known, Revealed) else known.masked
    session.phase, session._known = Phase.UPLOAD, known  # type: ignore[attr-defined]


# How an attack ends.


def assert_refused(session: SiloSession, answer: bytes, error: type[SparsiloError], party: str = AGGREGATOR) -> None:
    """The silo raises exactly this error, is ABORTED, and says nothing more in the round."""
    with pytest.raises(error) as refused:
        session.receive(answer)
    assert type(refused.value) is error
    assert getattr(refused.value, "party", "") == party
    assert_silent(session)


def assert_silent(session: SiloSession) -> None:
    assert session.phase is Phase.ABORTED
    with pytest.raises(UnexpectedMessage):
        session.message()
    with pytest.raises(UnexpectedMessage):
        session.receive(b"")
    with pytest.raises(RuntimeError):
        session.masked(0, np.zeros(session.round.layout.chunks[0].words, np.uint64))
    with pytest.raises(RuntimeError):
        session.audit(0, ())


def assert_turned_away(stage: Stage, silo: str, message: bytes, error: type[ProtocolError]) -> None:
    """The aggregator raises exactly this error, names the silo, and stands where it stood."""
    phase, arrived = stage.aggregator.phase, stage.aggregator.arrived
    with pytest.raises(error) as refused:
        stage.aggregator.receive(silo, message)
    assert type(refused.value) is error
    assert refused.value.party == silo
    assert (stage.aggregator.phase, stage.aggregator.arrived) == (phase, arrived)


# One silo as its agent drives it, with its ledger on disk.


class Agent:
    """Takes a session's place on the stage: the session is driven by `one_round`, and what must be on disk is."""

    def __init__(
        self, stage: Stage, silo: str, folder: Path, text: bytes = b"SHA-256 of always the same text!"
    ) -> None:
        self._stage, self.session = stage, stage.silos[silo]
        self.store = StateStore(folder / silo / "agent.sqlite")
        self.lanes = dict(stage.lanes[silo])
        values = SimpleNamespace(lanes=self._values)
        self.release = Release.of(stage.round, text)
        self.calls: Generator[Call, Any, None] = one_round(self.session, lambda: values, self.release, self.store, 1)
        self.call = next(self.calls)
        """What it does next."""
        stage.silos[silo] = self  # type: ignore[assignment]

    def _values(self, chunk: Chunk) -> Lanes:
        return self.lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def message(self) -> bytes:
        while not isinstance(self.call, Advance):
            match self.call:
                case Upload(_, chunks):
                    deque(chunks(0), 0)
                case Committed(request, take):
                    index = words_pb2.CommittedRequest.FromString(request(0)).index
                    take(map(encode, self._stage.committed(index)))
            self.call = self.calls.send(None)
        return self.call.message

    def receive(self, answer: bytes) -> None:
        try:
            self.call = self.calls.send(answer)
        except StopIteration:
            assert self.session.phase is Phase.DONE


def agents(stage: Stage, folder: Path, *silos: str) -> Stage:
    """The stage with agents for these silos, whose folders are what they were in earlier rounds."""
    for silo in silos:
        Agent(stage, silo, folder)
    return stage


# Uploads as they arrive.


def word_chunks(stage: Stage, silo: str) -> list[words_pb2.WordChunk]:
    """A silo's upload, masked."""
    words = [stage.silos[silo].masked(index, packed) for index, packed in enumerate(stage.packed(silo))]
    return [words_pb2.WordChunk(round=stage.round.digest, index=at, words=data) for at, data in enumerate(words)]


def spool(stage: Stage, folder: Path) -> Spool:
    """Where the aggregator keeps ONE's upload."""
    return Spool(folder / f"{ONE}.words", stage.layout.lengths, stage.round.digest, ONE)


def assert_not_taken(taker: Spool, chunks: Sequence[words_pb2.WordChunk], at: int, honest: Sequence[Any]) -> None:
    """The spool takes the chunks before `at` and refuses that one, naming the silo; an honest retry mends all."""
    stream = taker.start()
    for chunk in chunks[taker.held : at]:
        taker.take(stream, encode(chunk))
    before = taker.file.read_bytes()
    with pytest.raises(BadUpload) as refused:
        taker.take(stream, encode(chunks[at]))
    assert type(refused.value) is BadUpload
    assert refused.value.party == ONE
    assert taker.file.read_bytes() == before
    stream = taker.start()
    for chunk in honest[taker.held :]:
        taker.take(stream, encode(chunk))
    assert taker.root() == tree([chunk.words for chunk in honest]).root
