"""The machine both roles of every backend run on: what its table lists, and a typed refusal of the rest."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from crypto.backends.double_masking import phases
from crypto.backends.double_masking.silo import DoubleMaskingSilo
from crypto.backends.insecure_plaintext import sessions
from crypto.encoding.wire import encode
from crypto.errors import (
    BadUpload,
    MalformedMessage,
    ProtocolError,
    RoundAborted,
    SparsiloError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from crypto.names import Backend, Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.messages import MAX_MESSAGE_BYTES
from crypto.secagg.round import Round
from crypto.secagg.session import SiloSession, Table
from scenarios.world import World, plain_sum, random_lanes
from sparsilo.v1 import round_pb2
from support.plans import plan, plan_message, signing_keys

TABLES: dict[Backend, Table] = {
    Backend.DOUBLE_MASKING: phases.TABLE,
    Backend.INSECURE_PLAINTEXT: sessions.TABLE,
}
EVERY_PHASE = [(backend, phase) for backend, table in TABLES.items() for phase in table]
every_phase = pytest.mark.parametrize(("backend", "phase"), EVERY_PHASE)
SILO_KINDS = [spec.name for spec in round_pb2.SiloMessage.DESCRIPTOR.oneofs_by_name["body"].fields]
AGGREGATOR_KINDS = [spec.name for spec in round_pb2.AggregatorMessage.DESCRIPTOR.oneofs_by_name["body"].fields]


def world_at(phase: Phase, backend: Backend = Backend.DOUBLE_MASKING, **lost: Phase) -> World:
    """Four silos, three enough, with `phase` begun and nothing said in it yet, but uploaded, or audited."""
    agreed = plan(4, backend=backend)
    world = World(agreed, signing_keys(4), {name.replace("_", "-"): when for name, when in lost.items()})
    lanes = random_lanes(agreed, seed=4)
    while world.aggregator.phase is not phase:
        world.step(lanes)
    if phase is Phase.UPLOAD:
        for silo in world.aggregator.expected:
            world.upload(silo, lanes[silo])
    if phase is Phase.AUDIT:
        for silo in world.aggregator.expected:
            audit(world, silo)
    return world


def audit(world: World, silo: str) -> None:
    for index in world.silos[silo].assigned:
        world.silos[silo].audit(index, world.committed(index))


def say(world: World, kind: str) -> bytes:
    """An otherwise empty message of a silo."""
    message = round_pb2.SiloMessage(round=world.round.digest)
    getattr(message, kind).SetInParent()
    return encode(message)


def answer(world: World, kind: str) -> bytes:
    """An otherwise empty message of the aggregator."""
    message = round_pb2.AggregatorMessage(round=world.round.digest)
    getattr(message, kind).SetInParent()
    return encode(message)


def answers(world: World) -> dict[str, bytes]:
    """Everybody speaks and the phase closes; the answers are not delivered."""
    for silo in world.aggregator.expected:
        world.aggregator.receive(silo, world.silos[silo].message())
    if world.aggregator.phase is Phase.UNMASK:
        world.aggregator.recover()
        world.aggregator.summed(bytes(32))
    return world.aggregator.close_phase()


# The order of phases.


@pytest.mark.parametrize("backend", list(Backend))
def test_both_roles_walk_the_table_to_its_end(backend: Backend) -> None:
    expected = {
        Backend.DOUBLE_MASKING: "plan keys shares upload consistency unmask opening coin audit done",
        Backend.INSECURE_PLAINTEXT: "plan upload done",
    }[backend].split()
    agreed = plan(3, backend=backend)
    world, lanes = World(agreed, signing_keys(3)), random_lanes(agreed, seed=0)
    seen = [str(world.aggregator.phase)]
    while world.aggregator.phase is not Phase.DONE:
        world.step(lanes)
        seen.append(str(world.aggregator.phase))
        assert {session.phase for session in world.silos.values()} == {world.aggregator.phase}
    assert seen == expected


@every_phase
def test_every_message_has_its_phase_and_every_other_is_refused(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    listed = TABLES[backend][phase]
    for kind in SILO_KINDS:
        if kind != listed.silo:
            with pytest.raises(UnexpectedMessage, match=f"^silo-001: {kind} in phase {phase}") as refused:
                world.aggregator.receive("silo-001", say(world, kind))
            assert refused.value.party == "silo-001"
    assert world.aggregator.phase is phase
    assert world.aggregator.arrived == frozenset()
    for silo, kind in (
        (s, k) for s in world.silos for k in AGGREGATOR_KINDS if k not in (listed.aggregator, "aborted")
    ):
        session = world.silos[silo]
        session.phase = phase  # the same session again, as if it had not been refused before
        with pytest.raises(UnexpectedMessage, match=f"^aggregator: {kind} in phase {phase}") as refused:
            session.receive(answer(world, kind))
        assert refused.value.party == "aggregator"
        assert session.phase is Phase.ABORTED


@pytest.mark.parametrize("backend", list(Backend))
def test_after_the_round_nothing_is_listed(backend: Backend) -> None:
    world = world_at(Phase.DONE, backend)
    for session in world.silos.values():
        for kind in AGGREGATOR_KINDS:
            with pytest.raises(UnexpectedMessage, match="in phase done"):
                session.receive(answer(world, kind))
        with pytest.raises(UnexpectedMessage, match="in phase done"):
            session.message()
    for kind in SILO_KINDS:
        with pytest.raises(UnexpectedMessage, match=r"^silo-000: .*in phase done"):
            world.aggregator.receive("silo-000", say(world, kind))


# Messages of other rounds, without content, of other bytes.


def other_rounds() -> list[Round]:
    message = plan_message(4)
    evaluation = message.rounds.add().evaluation
    evaluation.sequences = 1
    evaluation.candidates.add(name="dense", dense=True)
    agreed = checked_plan(message)
    return [
        Round(plan(4, run=b"another run here"), 0, b""),
        Round(plan(4, backend=Backend.INSECURE_PLAINTEXT), 0, b""),
        Round(agreed, 0, b""),
        Round(plan(4), 1, b""),
        Round(plan(4), 0, bytes(32)),
    ]


@pytest.mark.parametrize("other", other_rounds())
def test_a_message_of_another_round_is_refused(other: Round) -> None:
    stranger = DoubleMaskingSilo(other, "silo-001", signing_keys(4)["silo-001"], bytes)
    world = world_at(Phase.PLAN)
    with pytest.raises(UnexpectedMessage, match=r"^silo-001: .*another round"):
        world.aggregator.receive("silo-001", stranger.message())
    with pytest.raises(UnexpectedMessage, match=r"^aggregator: .*another round"):
        stranger.receive(answers(world)["silo-001"])
    assert stranger.phase is Phase.ABORTED


@every_phase
def test_in_every_phase_the_round_is_checked(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    for digest in (b"", bytes(32), world.round.digest[:-1], world.round.digest + b"\0"):
        message = round_pb2.SiloMessage.FromString(world.silos["silo-001"].message())
        message.round = digest
        with pytest.raises(UnexpectedMessage, match=r"^silo-001: .*another round"):
            world.aggregator.receive("silo-001", encode(message))
    given = round_pb2.AggregatorMessage.FromString(answers(world)["silo-001"])
    given.round = bytes(32)
    with pytest.raises(UnexpectedMessage, match=r"^aggregator: .*another round"):
        world.silos["silo-001"].receive(encode(given))


@every_phase
def test_a_message_without_a_body_is_malformed(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    with pytest.raises(MalformedMessage, match=r"^silo-001: .*no body"):
        world.aggregator.receive("silo-001", encode(round_pb2.SiloMessage(round=world.round.digest)))
    with pytest.raises(MalformedMessage, match=r"^aggregator: .*no body"):
        world.silos["silo-001"].receive(encode(round_pb2.AggregatorMessage(round=world.round.digest)))
    assert world.silos["silo-001"].phase is Phase.ABORTED


@every_phase
def test_other_bytes_than_the_canonical_ones_are_malformed(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    message = world.silos["silo-001"].message()
    for data in (b"", message[:-1], message + b"\x78\x01", message + message):
        with pytest.raises(MalformedMessage):
            world.aggregator.receive("silo-001", data)
    for silo, given in answers(world).items():
        with pytest.raises(MalformedMessage):
            world.silos[silo].receive(given + b"\x78\x01")
        assert world.silos[silo].phase is Phase.ABORTED


def test_who_sent_malformed_bytes_is_named() -> None:
    world = world_at(Phase.PLAN)
    with pytest.raises(MalformedMessage) as at_aggregator:
        world.aggregator.receive("silo-001", b"\xff")
    with pytest.raises(MalformedMessage) as at_silo:
        world.silos["silo-001"].receive(b"\xff")
    assert (at_aggregator.value.party, at_silo.value.party) == ("silo-001", "aggregator")


def test_a_control_message_has_at_most_four_mebibytes() -> None:
    world = world_at(Phase.KEYS)
    message = round_pb2.SiloMessage(round=world.round.digest)
    sealed = message.pair_seeds.sealed.add(silo="silo-000", sealed=b"x" * MAX_MESSAGE_BYTES)
    sealed.sealed = sealed.sealed[: 2 * MAX_MESSAGE_BYTES - message.ByteSize()]
    assert len(encode(message)) == MAX_MESSAGE_BYTES == 4 << 20
    with pytest.raises(MalformedMessage, match="must name exactly"):  # read, and found wanting
        world.aggregator.receive("silo-001", encode(message))
    sealed.sealed += b"x"
    with pytest.raises(MalformedMessage, match="4194305 bytes, at most 4194304"):
        world.aggregator.receive("silo-001", encode(message))


# Who may speak, and how often.


@every_phase
def test_only_who_is_expected_may_speak(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    for stranger in ("silo-004", "", "aggregator"):
        with pytest.raises(UnexpectedMessage, match="nothing to say") as refused:
            world.aggregator.receive(stranger, world.silos["silo-001"].message())
        assert refused.value.party == stranger


@pytest.mark.clause("4.4")
@pytest.mark.parametrize(("before", "phase"), [both for both in pairwise(phases.TABLE) if both[0] is not Phase.COIN])
def test_who_was_dropped_may_not_come_back(before: Phase, phase: Phase) -> None:
    world = world_at(phase, silo_002=before)
    assert world.aggregator.expected == ("silo-000", "silo-001", "silo-003")
    assert world.aggregator.dropped == {"silo-002": before}
    with pytest.raises(UnexpectedMessage, match=r"^silo-002: has nothing to say"):
        world.aggregator.receive("silo-002", world.silos["silo-001"].message())


@every_phase
def test_the_same_bytes_twice_are_harmless_and_others_are_refused(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    message = world.silos["silo-001"].message()
    for _ in range(3):
        world.aggregator.receive("silo-001", message)
        assert world.aggregator.arrived == {"silo-001"}
    for other in (message + b"\0", message[:-1], world.silos["silo-002"].message() + b"\0", b""):
        with pytest.raises(UnexpectedMessage, match=f"^silo-001: spoke twice in phase {phase}, differently"):
            world.aggregator.receive("silo-001", other)
    assert len(answers(world)) == 4


def test_last_phases_message_is_refused_once_it_has_closed() -> None:
    world = world_at(Phase.PLAN)
    message = world.silos["silo-001"].message()
    answers(world)
    with pytest.raises(UnexpectedMessage, match="acceptance in phase keys"):
        world.aggregator.receive("silo-001", message)


@every_phase
def test_a_message_is_the_same_however_often_it_is_asked_for(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    for session in world.silos.values():
        assert len({session.message() for _ in range(3)}) == 1


def test_each_phase_has_a_message_of_its_own() -> None:
    world, said = world_at(Phase.PLAN), []
    lanes = random_lanes(world.plan, seed=4)
    while world.aggregator.phase is not Phase.DONE:
        if world.aggregator.phase is Phase.UPLOAD:
            world.upload("silo-001", lanes["silo-001"])
        if world.aggregator.phase is Phase.AUDIT:
            audit(world, "silo-001")
        said.append(world.silos["silo-001"].message())
        world.step(lanes)
    assert len(set(said)) == len(said) == 9


# Closing, aborting.


@every_phase
def test_silence_is_being_dropped_and_too_much_of_it_ends_the_round(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    for silo in ("silo-000", "silo-003"):
        world.aggregator.receive(silo, world.silos[silo].message())
    needed = 4 if phase is Phase.COIN else 3
    with pytest.raises(
        TooFewSurvivors, match=f"^phase {phase}: 2 of 4 silos answered and {needed} are needed"
    ) as ended:
        world.aggregator.close_phase()
    assert ended.value.hint == f"dropped: silo-001 in {phase}, silo-002 in {phase}"


def test_least_survivors_count_until_they_are_fixed_and_the_threshold_after() -> None:
    message = plan_message(5, threshold=3)
    message.least_survivors = 4
    agreed = checked_plan(message)
    lanes = random_lanes(agreed, seed=5)
    for phase in (Phase.PLAN, Phase.KEYS, Phase.SHARES, Phase.UPLOAD):
        world = World(agreed, signing_keys(5), {"silo-000": phase, "silo-001": phase})
        with pytest.raises(TooFewSurvivors, match=f"^phase {phase}: 3 of 5 silos answered and 4 are needed"):
            world.run(lanes)
        World(agreed, signing_keys(5), {"silo-000": phase}).run(lanes)
    for phase in (Phase.CONSISTENCY, Phase.UNMASK, Phase.OPENING):
        opened = World(agreed, signing_keys(5), {"silo-000": phase, "silo-001": phase}).run(lanes)
        assert {name: sums.tolist() for name, sums in opened.items()} == plain_sum(lanes, agreed.silos)
        with pytest.raises(TooFewSurvivors, match=f"^phase {phase}: 2 of 5 silos answered and 3 are needed"):
            World(agreed, signing_keys(5), dict.fromkeys(["silo-000", "silo-001", "silo-004"], phase)).run(lanes)


@every_phase
def test_an_abort_names_phase_and_reason_and_ends_every_session(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    told = world.aggregator.abort("the disk is full")
    assert world.aggregator.phase is Phase.ABORTED
    for session in world.silos.values():
        with pytest.raises(RoundAborted, match=f"^{phase}: the disk is full$"):
            session.receive(told)
        assert session.phase is Phase.ABORTED
    with pytest.raises(UnexpectedMessage, match=r"^silo-001: has nothing to say in phase aborted"):
        world.aggregator.receive("silo-001", say(world, TABLES[backend][phase].silo))


def aborted_by_another_message(world: World) -> bytes:
    return answer(world, "opening" if world.aggregator.phase is not Phase.UNMASK else "survivors")


@every_phase
@pytest.mark.parametrize("cause", [aborted_by_another_message, lambda world: b"\xff"])
def test_an_aborted_silo_refuses_everything(backend: Backend, phase: Phase, cause: Callable[[World], bytes]) -> None:
    world = world_at(phase, backend)
    wrong = cause(world)
    right = answers(world)["silo-001"]
    session = world.silos["silo-001"]
    with pytest.raises(ProtocolError):
        session.receive(wrong)
    assert session.phase is Phase.ABORTED
    for data in (right, wrong, right):
        with pytest.raises(UnexpectedMessage, match="in phase aborted"):
            session.receive(data)
    with pytest.raises(RuntimeError, match="UPLOAD only"):
        session.masked(0, np.zeros(2, np.uint64))


def test_an_aborted_silo_says_nothing_more() -> None:
    world = world_at(Phase.CONSISTENCY)
    session = world.silos["silo-001"]
    session.message()
    with pytest.raises(SparsiloError):
        session.receive(b"\xff")
    with pytest.raises(UnexpectedMessage):
        session.message()


def test_an_aborted_silo_that_had_not_spoken_says_nothing() -> None:
    session = world_at(Phase.CONSISTENCY).silos["silo-001"]
    with pytest.raises(MalformedMessage):
        session.receive(b"\xff")
    with pytest.raises(UnexpectedMessage, match="in phase aborted"):
        session.message()


# Words.


@every_phase
def test_words_are_masked_in_upload_only(backend: Backend, phase: Phase) -> None:
    world = world_at(phase, backend)
    words = np.ones(5, np.uint64)
    if phase is not Phase.UPLOAD:
        with pytest.raises(RuntimeError, match="UPLOAD only"):
            world.silos["silo-001"].masked(0, words)
        assert words.tolist() == [1] * 5


def uploading(backend: Backend = Backend.DOUBLE_MASKING) -> SiloSession:
    """A silo that may upload and has not begun."""
    agreed = plan(4, backend=backend)
    world = World(agreed, signing_keys(4))
    while world.aggregator.phase is not Phase.UPLOAD:
        world.step(random_lanes(agreed, seed=4))
    return world.silos["silo-001"]


def test_a_chunk_is_masked_the_same_way_in_any_order() -> None:
    session = uploading()
    first = [session.masked(index, np.ones(5, np.uint64)) for index in range(4)]
    again = {index: session.masked(index, np.ones(5, np.uint64)) for index in (2, 0, 3, 1)}
    assert len(set(first)) == 4
    assert [again[index] for index in range(4)] == first


def test_what_is_uploaded_are_the_masked_words() -> None:
    words = np.ones(5, np.uint64)
    data = uploading().masked(0, words)
    assert words.astype("<u8").tobytes() == data
    assert not (words == 1).any()


@pytest.mark.clause("6.3.3", "6.5.3")
@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("place", [0, 4])
def test_one_bit_of_difference_on_a_retry_never_leaves(place: int, backend: Backend) -> None:
    session = uploading(backend)
    session.masked(1, np.ones(5, np.uint64))
    session.masked(2, np.ones(5, np.uint64))
    other = np.ones(5, np.uint64)
    other[place] ^= np.uint64(1 << 63)
    with pytest.raises(BadUpload, match=r"^silo-001: chunk 1 is not what was sent before"):
        session.masked(1, other)
    assert session.phase is Phase.ABORTED
    with pytest.raises(UnexpectedMessage):
        session.message()


@pytest.mark.parametrize("backend", list(Backend))
def test_upload_cannot_be_closed_before_everything_was_handed_over(backend: Backend) -> None:
    session = uploading(backend)
    for index in (0, 1, 3):
        with pytest.raises(RuntimeError, match="before it uploaded"):
            session.message()
        session.masked(index, np.ones(5, np.uint64))
    with pytest.raises(RuntimeError, match="before it uploaded"):
        session.message()
    session.masked(2, np.ones(5, np.uint64))
    session.message()


@pytest.mark.clause("5.4.2")
@pytest.mark.parametrize("backend", list(Backend))
def test_the_signed_root_must_be_that_of_the_uploaded_words(backend: Backend) -> None:
    for other in (bytes(32), b"", b"x" * 33):
        world = world_at(Phase.UPLOAD, backend)
        world.aggregator.uploaded("silo-001", other)
        with pytest.raises(BadUpload, match=r"^silo-001: "):
            world.aggregator.receive("silo-001", world.silos["silo-001"].message())
        world.aggregator.receive("silo-002", world.silos["silo-002"].message())
        assert world.aggregator.arrived == {"silo-002"}


def test_a_sum_is_opened_by_enough_shares_and_not_before_they_are_combined() -> None:
    world = world_at(Phase.UNMASK)
    for silo in ("silo-000", "silo-002"):
        world.aggregator.receive(silo, world.silos[silo].message())
    with pytest.raises(TooFewSurvivors, match=r"^phase unmask: 2 of 4 silos answered and 3 are needed"):
        world.aggregator.recover()
    world.aggregator.receive("silo-003", world.silos["silo-003"].message())
    with pytest.raises(RuntimeError, match="before it recovered the masks"):
        world.aggregator.unmask_chunk(0, np.ones(5, np.uint64))
    world.aggregator.recover()
    world.aggregator.unmask_chunk(0, np.ones(5, np.uint64))


def test_a_backend_without_an_audit_has_nobody_audit() -> None:
    world = world_at(Phase.UPLOAD, Backend.INSECURE_PLAINTEXT)
    session = world.silos["silo-001"]
    assert (tuple(session.assigned), session.survivors) == ((), ())
    with pytest.raises(RuntimeError, match="not for this backend"):
        session.audit(0, [])
    with pytest.raises(RuntimeError, match="has no AUDIT"):
        world.aggregator.may_audit("silo-001", 0)


@pytest.mark.clause("5.10.1")
def test_both_roles_end_with_the_same_transcript_of_all_that_went_to_everybody() -> None:
    world = world_at(Phase.DONE)
    transcripts = [world.aggregator.transcript, *(session.transcript for session in world.silos.values())]
    assert len({encode(transcript) for transcript in transcripts}) == 1
    fields = {spec.name for spec, _ in transcripts[0].ListFields()}
    assert fields == {spec.name for spec in round_pb2.Transcript.DESCRIPTOR.fields} - {
        "index",
        "input",
        "cohort",
    }  # 0 and none
