"""A silo's round as a sequence of calls: what is on disk before each is named, and what is never said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.encoding.words import Words
from crypto.errors import (
    BadAudit,
    BadUpload,
    CalibrationError,
    MalformedMessage,
    ProtocolError,
    ReleaseRefused,
    UnexpectedMessage,
)
from crypto.names import Backend, Phase
from scenarios.world import World, plain_sum, random_lanes
from silo_agent.consent.state_store import StateStore
from silo_agent.network.calls import Advance, Call, Committed, Upload
from silo_agent.rounds.one_round import one_round
from sparsilo.v1 import words_pb2
from support.driven import LanesRelease, release_of
from support.plans import plan, signing_keys

ME = "silo-001"


class Agent:
    """One silo's `one_round`, in the place of its session in a World; shows every call before it is made."""

    def __init__(self, world: World, release: LanesRelease, store: StateStore, threads: int) -> None:
        self.world, self.session, self.release = world, world.silos[ME], release
        self.prepared = 0
        self.calls: list[tuple[Phase, Call]] = []
        self.look: Callable[[Phase, Call], None] = lambda phase, call: None
        self._uploaded: list[bytes] = []
        self._round = one_round(self.session, self._prepare, release_of(world.round), store, threads)
        world.silos[ME] = self  # type: ignore[assignment]

    def _prepare(self) -> LanesRelease:
        self.prepared += 1
        return self.release

    def go_on(self, answer: bytes | None = None) -> Call | None:
        call = self._round.send(answer)
        self.calls.append((self.session.phase, call))
        self.look(*self.calls[-1])
        return call

    # What World asks of a session.

    assigned = ()

    def message(self) -> bytes:
        call = self.calls[-1][1] if self.calls else self.go_on()
        while isinstance(call, Committed):
            index = decode(words_pb2.CommittedRequest, call.request(0), MESSAGE_LIMIT).index
            call.take(map(encode, self.world.committed(index)))
            call = self.go_on()
        assert isinstance(call, Advance)
        return call.message

    def receive(self, answer: bytes) -> None:
        try:
            self.go_on(answer)
        except StopIteration:
            assert self.session.phase is Phase.DONE

    def masked(self, index: int, words: Words) -> bytes:
        call = self.calls[-1][1]
        if isinstance(call, Upload):
            asked = decode(words_pb2.HeldRequest, call.request, MESSAGE_LIMIT)
            assert asked.round == self.world.round.digest
            self._uploaded = list(call.chunks(0))
            for held in range(len(self._uploaded) + 1):
                assert list(call.chunks(held)) == self._uploaded[held:], "a retry brings the same bytes"
            self.go_on()
        chunk = decode(words_pb2.WordChunk, self._uploaded[index], MESSAGE_LIMIT)
        assert (chunk.round, chunk.index) == (self.world.round.digest, index)
        return chunk.words


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "agent.sqlite")


def agent(store: StateStore, threads: int = 1, **fields: object) -> Agent:
    agreed = plan(4, **fields)
    return Agent(World(agreed, signing_keys(4)), LanesRelease(random_lanes(agreed, seed=5)[ME]), store, threads)


def step_until(phase: Phase, agent: Agent) -> None:
    lanes = random_lanes(agent.world.plan, seed=5)
    while agent.world.aggregator.phase is not phase:
        agent.world.step(lanes)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("backend", list(Backend))
def test_a_whole_round(backend: Backend, threads: int, store: StateStore) -> None:
    me = agent(store, threads, backend=backend)
    step_until(Phase.DONE, me)
    lanes = random_lanes(me.world.plan, seed=5)
    assert {n: s.tolist() for n, s in me.world.open().items()} == plain_sum(lanes, me.world.plan.silos)
    assert me.prepared == 1
    spoken = [phase for phase, call in me.calls if isinstance(call, Advance)]
    assert spoken == [p for p in Phase if p in me.session._table]
    uploads = [at for at, (_, call) in enumerate(me.calls) if isinstance(call, Upload)]
    assert [me.calls[at + 1][0] for at in uploads] == [Phase.UPLOAD], "one upload, right before its root"
    audits = [decode(words_pb2.CommittedRequest, c.request(0), 99) for _, c in me.calls if isinstance(c, Committed)]
    assert {each.round for each in audits} <= {me.world.round.digest}
    assert [each.index for each in audits] == [*me.session.assigned]


@pytest.mark.clause("14.4.1", "2.5.8", "2.5.9", "4.3")
def test_what_must_be_on_disk_is_there_before_the_call_is_named(store: StateStore, tmp_path: Path) -> None:
    me = agent(store)
    begun = release_of(me.world.round)
    sent = replace(begun, sent=True)
    confirmed = replace(sent, confirmed=me.world.plan.silos)
    expected = {
        **dict.fromkeys((Phase.PLAN, Phase.KEYS, Phase.SHARES), begun),
        **dict.fromkeys((Phase.UPLOAD, Phase.CONSISTENCY), sent),
        **dict.fromkeys((Phase.UNMASK, Phase.OPENING, Phase.COIN, Phase.AUDIT), confirmed),
    }

    def look(phase: Phase, call: Call) -> None:
        on_disk = StateStore(tmp_path / "agent.sqlite")
        assert on_disk.releases() == [expected[phase]]
        if isinstance(call, Advance):
            on_disk.say(begun.round, phase, call.message)
            with pytest.raises(ReleaseRefused):
                on_disk.say(begun.round, phase, call.message + b"\0")

    me.look = look
    step_until(Phase.DONE, me)


@pytest.mark.clause("14.4.1")
def test_a_release_is_in_the_ledger_when_it_is_computed(store: StateStore) -> None:
    me, seen = agent(store), []

    def prepare() -> LanesRelease:
        seen.extend(store.releases())
        raise CalibrationError("no text")

    with pytest.raises(CalibrationError):
        next(one_round(me.session, prepare, release_of(me.world.round), store, 1))
    assert seen == store.releases() == [release_of(me.world.round)]


def test_without_consistency_survivors_are_known_at_the_end(store: StateStore) -> None:
    me = agent(store, backend=Backend.INSECURE_PLAINTEXT)
    step_until(Phase.DONE, me)
    assert [release.confirmed for release in store.releases()] == [me.world.plan.silos]


@pytest.mark.clause("4.10")
@pytest.mark.parametrize("killed_in", [Phase.KEYS, Phase.UPLOAD, Phase.AUDIT])
def test_a_restarted_agent_computes_and_says_nothing_in_the_round(killed_in: Phase, store: StateStore) -> None:
    step_until(killed_in, agent(store))
    restarted = agent(store)
    with pytest.raises(ReleaseRefused, match="already took part"):
        restarted.go_on()
    assert (restarted.prepared, restarted.calls) == (0, [])


def earlier_release(me: Agent, store: StateStore, *survivors: str) -> None:
    """An earlier round of the same text, over these survivors."""
    earlier = replace(release_of(me.world.round), round=bytes(32))
    store.begin(earlier)
    store.send(earlier)
    store.confirm(earlier, survivors)


@pytest.mark.clause("2.5.10")
def test_what_the_ledger_forbids_is_neither_computed_nor_said(store: StateStore) -> None:
    me = agent(store)
    earlier_release(me, store, *me.world.plan.silos, "another")
    with pytest.raises(ReleaseRefused, match="cannot be over the survivors"):
        me.go_on()
    assert (me.prepared, me.calls) == (0, [])


@pytest.mark.clause("2.5.11")
def test_other_survivors_than_an_earlier_releases_are_not_signed(store: StateStore) -> None:
    me = agent(store)
    silos = me.world.plan.silos
    earlier_release(me, store, *silos[:3])
    with pytest.raises(ReleaseRefused, match="the survivors are not those of round 0000000000000000"):
        step_until(Phase.DONE, me)
    assert me.calls[-1][0] is Phase.UPLOAD
    assert [(release.sent, release.confirmed) for release in store.releases()] == [(True, silos[:3]), (True, ())]


@pytest.mark.clause("6.5.3")
@pytest.mark.parametrize("changed", range(4))
def test_an_upload_whose_file_changed_stops_before_the_chunk(changed: int, store: StateStore) -> None:
    me = agent(store)
    step_until(Phase.UPLOAD, me)
    call = me.calls[-1][1]
    assert isinstance(call, Upload)
    first, again = list(call.chunks(0)), []
    assert len(first) == 4
    chunk = me.world.layout.chunks[changed]
    me.release.values[chunk.section.name][chunk.start + chunk.lanes - 1] ^= 1
    with pytest.raises(BadUpload, match=f"silo-001: chunk {changed} is not what was sent before"):
        for data in call.chunks(0):
            again.append(data)
    assert again == first[:changed]
    assert me.session.phase is Phase.ABORTED


@pytest.mark.clause("5.9.3")
@pytest.mark.parametrize(
    ("alter", "error"),
    [
        (lambda pieces: pieces[:-1], BadAudit),
        (lambda pieces: [bytes([*pieces[0][:-1], pieces[0][-1] ^ 1]), *pieces[1:]], BadAudit),
        (lambda pieces: [pieces[0] + b"\x78\x01", *pieces[1:]], MalformedMessage),
        (lambda pieces: [pieces[1], pieces[0], *pieces[2:]], BadAudit),
    ],
)
def test_without_its_chunks_recomputed_an_agent_gives_no_verdict(
    alter: Callable[[list[bytes]], list[bytes]], error: type[ProtocolError], store: StateStore
) -> None:
    me = agent(store, shape=(20, 21), chunk_words=1)  # 42 chunks: some are surely this silo's
    step_until(Phase.AUDIT, me)
    call = me.calls[-1][1]
    assert isinstance(call, Committed)
    index = decode(words_pb2.CommittedRequest, call.request(0), MESSAGE_LIMIT).index
    with pytest.raises(error, match=r"^aggregator: "):
        call.take(iter(alter([encode(piece) for piece in me.world.committed(index)])))
    with pytest.raises((UnexpectedMessage, RuntimeError)):
        me.session.message()
