"""An outsider, a silo or an aggregator sends more bytes than a message may have, to fill a memory."""

from typing import Any

import pytest
from google.protobuf.message import Message

from attacks.stage import AGGREGATOR, ONE, PHASES, SILOS, Stage, assert_refused, assert_turned_away, told
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import MalformedMessage
from crypto.names import Phase
from crypto.plan import MAX_PLAN_BYTES
from crypto.plan_rules import checked_plan
from crypto.secagg.messages import MAX_MESSAGE_BYTES
from sparsilo.v1 import round_pb2, words_pb2
from support.plans import plan_message

pytestmark = pytest.mark.clause("1.4", "4.9", "7.2")


def inflated(message: Any, bytes_: int) -> bytes:
    """The message, canonical but for its size: the first text or bytes in it are as long as that."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.name == "round":
            continue
        if field.type in (field.TYPE_BYTES, field.TYPE_STRING):
            one: Any = bytes(bytes_) if field.type == field.TYPE_BYTES else "x" * bytes_
            if field.is_repeated:
                value.append(one)
            else:
                setattr(message, field.name, one)
            return encode(message)
        if field.message_type is not None:
            if field.is_repeated:
                inflated(value.add(), bytes_)
            elif field.containing_oneof is None or message.WhichOneof("body") == field.name:
                inflated(value, bytes_)
            else:
                continue
            return encode(message)
    raise AssertionError(message.DESCRIPTOR.name)


@pytest.mark.parametrize("phase", PHASES)
def test_an_answer_to_a_silo(phase: Phase) -> None:
    stage = Stage(phase)
    silos = iter(SILOS)
    for answer in stage.answers().values():
        message = round_pb2.AggregatorMessage.FromString(answer)
        data = inflated(message, MAX_MESSAGE_BYTES)
        assert round_pb2.AggregatorMessage.FromString(data).WhichOneof("body") == message.WhichOneof("body")
        assert_refused(stage.silos[next(silos)], data, MalformedMessage)
        break
    assert_refused(stage.silos[next(silos)], told(stage, aborted={"reason": "x" * MAX_MESSAGE_BYTES}), MalformedMessage)


@pytest.mark.parametrize("phase", PHASES)
def test_a_silos_message(phase: Phase) -> None:
    stage = Stage(phase)
    if phase is Phase.UPLOAD:
        stage.upload(ONE, stage.lanes[ONE])
    for index in stage.silos[ONE].assigned if phase is Phase.AUDIT else ():
        stage.silos[ONE].audit(index, stage.committed(index))
    message = round_pb2.SiloMessage.FromString(stage.silos[ONE].message())
    assert_turned_away(stage, ONE, inflated(message, MAX_MESSAGE_BYTES), MalformedMessage)
    stage.finish()


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (words_pb2.WordChunk(), MESSAGE_LIMIT),
        (words_pb2.CommittedChunk(), MESSAGE_LIMIT),
        (round_pb2.Transcript(), MAX_MESSAGE_BYTES),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bulk(message: Message, limit: int) -> None:
    data = inflated(message, limit)
    assert len(data) > limit
    with pytest.raises(MalformedMessage, match=f"{len(data)} bytes, at most {limit}"):
        decode(type(message), data, limit, party=AGGREGATOR)


def test_a_plan() -> None:
    message = plan_message(5)
    message.model.add(name="z" * MAX_PLAN_BYTES, digest=bytes(32), shape=[1])
    with pytest.raises(MalformedMessage, match=f"at most {MAX_PLAN_BYTES}"):
        checked_plan(message)
    message.model[-1].name = "z"
    checked_plan(message)
