"""An outsider, a silo or an aggregator spells a message in another way than the canonical one, or not as a message."""

from typing import Any

import pytest

from attacks.stage import (
    AGGREGATOR,
    ONE,
    PHASES,
    SILOS,
    Stage,
    assert_refused,
    assert_silent,
    assert_turned_away,
    heard,
)
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import MalformedMessage
from crypto.names import Phase
from crypto.plan_rules import decode_plan
from sparsilo.v1 import round_pb2, words_pb2

pytestmark = pytest.mark.clause("1.3", "4.9", "5.9.3")


def first_record(data: bytes) -> bytes:
    """The first field, which is bytes of fewer than 128 or a text."""
    return data[: 2 + data[1]]


SPELLINGS = {
    "truncated": lambda data: data[:-1],
    "with an unknown field": lambda data: data + b"\xfa\x7f\x01x",  # number 2047
    "with a length in more bytes than it needs": lambda data: data[:1] + bytes([data[1] | 128, 0]) + data[2:],
    "with a field twice": lambda data: first_record(data) + data,
    "in another order": lambda data: data[len(first_record(data)) :] + first_record(data),
    "followed by nothing that is a message": lambda data: data + b"\x00",
}
every_spelling = pytest.mark.parametrize("spelling", SPELLINGS)


@pytest.mark.parametrize("phase", PHASES)
def test_an_answer_to_a_silo(phase: Phase) -> None:
    stages = Stage(phase), Stage(phase)
    targets = [(stage.silos[silo], answer) for stage in stages for silo, answer in stage.answers().items()]
    for spell, (session, answer) in zip(SPELLINGS.values(), targets, strict=False):
        assert_refused(session, spell(answer), MalformedMessage)
    session, answer = targets[-1]
    empty = encode(round_pb2.AggregatorMessage(round=session.round.digest))
    assert_refused(session, empty, MalformedMessage)


@pytest.mark.parametrize("phase", PHASES)
def test_a_silos_message(phase: Phase) -> None:
    stage = Stage(phase)
    if phase is Phase.UPLOAD:
        stage.upload(ONE, stage.lanes[ONE])
    for index in stage.silos[ONE].assigned if phase is Phase.AUDIT else ():
        stage.silos[ONE].audit(index, stage.committed(index))
    message = stage.silos[ONE].message()
    for spell in SPELLINGS.values():
        assert_turned_away(stage, ONE, spell(message), MalformedMessage)
    assert_turned_away(stage, ONE, encode(round_pb2.SiloMessage(round=stage.round.digest)), MalformedMessage)
    stage.finish()


@every_spelling
def test_a_plan(spelling: str) -> None:
    with pytest.raises(MalformedMessage):
        decode_plan(SPELLINGS[spelling](Stage().plan.encoded))


@every_spelling
def test_a_word_chunk(spelling: str) -> None:
    chunk = words_pb2.WordChunk(round=bytes(32), index=1, words=bytes(16))
    with pytest.raises(MalformedMessage) as refused:
        decode(words_pb2.WordChunk, SPELLINGS[spelling](encode(chunk)), MESSAGE_LIMIT, party=ONE)
    assert refused.value.party == ONE


@every_spelling
def test_a_committed_chunk_ends_the_round_for_its_auditor(spelling: str) -> None:
    """As an agent takes them: decoded one by one while the session recomputes the chunk."""
    stage = Stage(Phase.AUDIT)
    silo = stage.auditors(0)[0]
    session, pieces = stage.silos[silo], [encode(piece) for piece in stage.committed(0)]
    pieces[1] = SPELLINGS[spelling](pieces[1])
    with pytest.raises(MalformedMessage) as refused:
        session.audit(0, (decode(words_pb2.CommittedChunk, p, MESSAGE_LIMIT, party=AGGREGATOR) for p in pieces))
    assert refused.value.party == AGGREGATOR
    assert_silent(session)


def test_what_the_spellings_have_in_common() -> None:
    """Protobuf's own parser takes most of them for the same message: one signature would stand for many bytes."""
    stage = Stage()
    message = stage.silos[SILOS[0]].message()
    same = [name for name, spell in SPELLINGS.items() if parsed(spell(message)) == heard(message)]
    assert len(same) == 4


def parsed(data: bytes) -> Any:
    try:
        return heard(data)
    except Exception:  # noqa: BLE001 - whatever protobuf raises
        return None
