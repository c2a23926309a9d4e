"""Canonical bytes against an encoder written here from the protobuf wire format, and every other spelling refused."""

import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.encoding.wire import decode, encode
from crypto.errors import MalformedMessage
from sparsilo.v1 import plan_pb2, round_pb2, words_pb2

Kind = type[Message]
LIMIT = 1 << 20

DESCRIPTORS: list[Descriptor] = [
    descriptor
    for module in (plan_pb2, round_pb2, words_pb2)
    for descriptor in module.DESCRIPTOR.message_types_by_name.values()
]
KINDS: list[Kind] = [GetMessageClass(descriptor) for descriptor in DESCRIPTORS]


def name(value: object) -> str:
    return value.DESCRIPTOR.name if isinstance(value, type) and issubclass(value, Message) else ""


every_kind = pytest.mark.parametrize("kind", KINDS, ids=name)


# The wire format, written from its description: a record is a varint tag (number * 8 + type) and a value.


def varint(value: int) -> bytes:
    digits = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([digit | 128 for digit in digits[:-1]] + digits[-1:])


def delimited(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def packed(spec: FieldDescriptor) -> bool:
    """Repeated numbers share one record."""
    return spec.is_repeated and spec.message_type is None and spec.type not in TEXT


def reference(message: Message) -> bytes:
    records = []
    for spec, value in sorted(message.ListFields(), key=lambda item: item[0].number):
        items = value if spec.is_repeated else [value]
        if packed(spec):
            records.append(delimited(spec.number, b"".join(varint(item) for item in value)))
        elif spec.message_type is not None:
            records += [delimited(spec.number, reference(item)) for item in items]
        elif spec.type in TEXT:
            records += [delimited(spec.number, item.encode() if isinstance(item, str) else item) for item in items]
        elif spec.type == FieldDescriptor.TYPE_DOUBLE:
            records.append(varint(spec.number << 3 | 1) + struct.pack("<d", value))
        else:
            records.append(varint(spec.number << 3) + varint(int(value)))
    return b"".join(records)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
    return value | data[at] << shift, at + 1


def records(data: bytes) -> list[bytes]:
    """The top-level records of canonical bytes."""
    found, at = [], 0
    while at < len(data):
        start = at
        tag, at = read_varint(data, at)
        if tag & 7 == 1:
            at += 8
        else:
            value, at = read_varint(data, at)
            at += value if tag & 7 == 2 else 0
        found.append(data[start:at])
    return found


def number_of(record: bytes) -> int:
    return read_varint(record, 0)[0] >> 3


# Messages of every kind, from their descriptors.


def values(spec: FieldDescriptor) -> st.SearchStrategy[Any]:
    if spec.message_type is not None:
        return messages(spec.message_type)
    return {
        FieldDescriptor.TYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=40),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
        FieldDescriptor.TYPE_DOUBLE: st.floats(0, 1e300),
        FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    }[spec.type]


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Any:
    fields: dict[str, Any] = {}
    for spec in descriptor.fields:
        if spec.containing_oneof is None and draw(st.booleans()):
            fields[spec.name] = draw(st.lists(values(spec), max_size=3) if spec.is_repeated else values(spec))
    for oneof in descriptor.oneofs:
        chosen = draw(st.sampled_from([None, *oneof.fields]))
        if chosen is not None:
            fields[chosen.name] = draw(values(chosen))
    return GetMessageClass(descriptor)(**fields)


any_message = st.sampled_from(DESCRIPTORS).flatmap(messages)


def full(descriptor: Any, pick: int = 0) -> Any:
    """A message with every field set and repeated ones twice; of a oneof, member number `pick`."""
    taken = {oneof.fields[min(pick, len(oneof.fields) - 1)].name for oneof in descriptor.oneofs}

    def value(spec: FieldDescriptor) -> Any:
        if spec.message_type is not None:
            return full(spec.message_type, pick)
        texts = {FieldDescriptor.TYPE_STRING: "text", FieldDescriptor.TYPE_BYTES: b"bytes"}
        return texts.get(spec.type, True if spec.type == FieldDescriptor.TYPE_BOOL else 300)

    fields = {
        spec.name: [value(spec)] * 2 if spec.is_repeated else value(spec)
        for spec in descriptor.fields
        if spec.containing_oneof is None or spec.name in taken
    }
    return GetMessageClass(descriptor)(**fields)


def samples(kind: Kind) -> Iterator[bytes]:
    """Canonical bytes with every field of `kind` in one of them."""
    picks = max((len(oneof.fields) for oneof in kind.DESCRIPTOR.oneofs), default=1)
    return (reference(full(kind.DESCRIPTOR, pick)) for pick in range(picks))


def refused(kind: Kind, data: bytes, limit: int = LIMIT) -> None:
    with pytest.raises(MalformedMessage, match=f"^{kind.DESCRIPTOR.name}: "):
        decode(kind, data, limit)


def test_there_are_messages_to_test() -> None:
    names = {descriptor.name for descriptor in DESCRIPTORS}
    assert {"Plan", "SiloMessage", "AggregatorMessage", "WordChunk", "Offer"} <= names
    assert not any(descriptor.nested_types for descriptor in DESCRIPTORS)


@settings(max_examples=300, deadline=None)
@given(any_message)
def test_the_bytes_are_those_of_the_wire_format_and_give_the_message_back(message: Message) -> None:
    data = encode(message)
    assert data == reference(message)
    assert decode(type(message), data, len(data)) == message


@every_kind
def test_full_messages_go_there_and_back(kind: Kind) -> None:
    for data in samples(kind):
        assert encode(decode(kind, data, len(data))) == data


@every_kind
def test_more_bytes_than_allowed_are_refused(kind: Kind) -> None:
    for data in samples(kind):
        decode(kind, data, len(data))
        if data:
            refused(kind, data, len(data) - 1)


@every_kind
def test_an_unknown_field_is_refused_at_any_depth(kind: Kind) -> None:
    unknown = max([spec.number for spec in kind.DESCRIPTOR.fields], default=0) + 1
    for extra in (varint(unknown << 3) + b"\x01", delimited(unknown, b"x"), varint(2**29 - 1 << 3) + b"\x00"):
        refused(kind, extra)
        for data in samples(kind):
            refused(kind, data + extra)
            refused(kind, extra + data)
            for at, record in enumerate(records(data)):
                spec = kind.DESCRIPTOR.fields_by_number[number_of(record)]
                if spec.message_type is not None:
                    inner = reference(full(spec.message_type)) + varint(1000 << 3) + b"\x01"
                    parts = records(data)
                    parts[at] = delimited(spec.number, inner)
                    refused(kind, b"".join(parts))


@every_kind
def test_a_message_cut_short_is_refused_unless_it_is_cut_between_fields(kind: Kind) -> None:
    for data in samples(kind):
        whole, at = {0}, 0
        for record in records(data):
            whole.add(at := at + len(record))
        for cut in range(len(data)):
            if cut in whole:
                assert encode(decode(kind, data[:cut], LIMIT)) == data[:cut]
            else:
                refused(kind, data[:cut])


@every_kind
def test_a_field_twice_is_refused(kind: Kind) -> None:
    for data in samples(kind):
        parts = records(data)
        for at, record in enumerate(parts):
            spec = kind.DESCRIPTOR.fields_by_number[number_of(record)]
            twice = b"".join([*parts[: at + 1], record, *parts[at + 1 :]])
            if spec.is_repeated and not packed(spec):
                assert encode(decode(kind, twice, LIMIT)) == twice  # one element more
            else:
                refused(kind, twice)


@every_kind
def test_both_members_of_a_oneof_are_refused(kind: Kind) -> None:
    every = list(samples(kind))
    if kind.DESCRIPTOR.oneofs:
        for one in every:
            for other in every:
                if one != other:
                    refused(kind, one + records(other)[-1])


@every_kind
def test_fields_out_of_order_are_refused(kind: Kind) -> None:
    for data in samples(kind):
        parts = records(data)
        for at in range(len(parts) - 1):
            if number_of(parts[at]) != number_of(parts[at + 1]):
                refused(kind, b"".join([*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]]))


def longer(data: bytes, at: int) -> bytes:
    """The same bytes with the varint at `at` one byte longer than needed."""
    _, end = read_varint(data, at)
    return data[: end - 1] + bytes([data[end - 1] | 128, 0]) + data[end:]


@every_kind
def test_a_longer_varint_than_needed_is_refused(kind: Kind) -> None:
    for data in samples(kind):
        parts = records(data)
        for at, record in enumerate(parts):
            _, value_at = read_varint(record, 0)
            for where in (0, value_at):  # the tag; the value or length
                refused(kind, b"".join([*parts[:at], longer(record, where), *parts[at + 1 :]]))


@every_kind
def test_an_explicit_default_is_refused(kind: Kind) -> None:
    for spec in kind.DESCRIPTOR.fields:
        empty = delimited(spec.number, b"")
        if spec.message_type is not None or spec.containing_oneof is not None or spec.is_repeated > packed(spec):
            continue  # an empty message or element is there or not there, which is a difference
        text = spec.is_repeated or spec.type in TEXT
        refused(kind, empty if text else varint(spec.number << 3) + b"\x00")


@every_kind
def test_a_field_of_another_type_is_refused(kind: Kind) -> None:
    for spec in kind.DESCRIPTOR.fields:
        text = spec.message_type is not None or spec.is_repeated
        text = text or spec.type in TEXT
        wrong = [varint(spec.number << 3) + b"\x01"] if text else [delimited(spec.number, b"\x01")]
        if packed(spec):
            wrong.append(varint(spec.number << 3) + b"\x01" + varint(spec.number << 3) + b"\x02")  # not packed
        wrong += [varint(spec.number << 3 | 1) + bytes(8), varint(spec.number << 3 | 5) + bytes(4)]
        wrong += [varint(spec.number << 3 | type_) for type_ in (3, 4, 6, 7)]
        wrong.append(varint(spec.number << 3 | 3) + varint(spec.number << 3 | 4))  # a group
        for data in wrong:
            refused(kind, data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (round_pb2.Aborted, delimited(1, b"\xff")),
        (round_pb2.Aborted, delimited(1, b"\xed\xa0\x80")),  # a lone surrogate
        (round_pb2.Aborted, delimited(1, b"\xc0\xaf")),  # an overlong character
        (plan_pb2.Tensor, varint(4 << 3) + b"\x02"),  # a bool of 2
        (plan_pb2.Plan, varint(6 << 3) + varint(2**32)),  # beyond uint32
        (plan_pb2.Plan, varint(6 << 3) + varint(2**64 - 1)),
        (plan_pb2.Plan, varint(6 << 3) + b"\xff" * 10 + b"\x01"),  # beyond a varint
        (round_pb2.UploadRoot, b"\x0a\xff\xff\xff\xff\x0f"),  # a length of 4 GiB
        (round_pb2.UploadRoot, b"\x02\x00"),  # field number 0
    ],
)
def test_values_that_a_field_cannot_hold_are_refused(kind: Kind, data: bytes) -> None:
    refused(kind, data)


def survives(kind: Kind, data: bytes) -> None:
    try:
        message = decode(kind, data, LIMIT)
    except MalformedMessage:
        return
    assert encode(message) == data


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=80))
def test_random_bytes_are_canonical_or_malformed(kind: Kind, data: bytes) -> None:
    survives(kind, data)


random_records = st.lists(
    st.builds(
        lambda number, text, value: delimited(number, text) if text is not None else varint(number << 3) + value,
        st.integers(1, 9),
        st.none() | st.binary(max_size=9),
        st.integers(0, 2**64 - 1).map(varint) | st.binary(min_size=1, max_size=11),
    ),
    max_size=5,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(KINDS), random_records)
def test_random_records_are_canonical_or_malformed(kind: Kind, data: bytes) -> None:
    survives(kind, data)


EDITS: list[Callable[[bytes, int, bytes], bytes]] = [
    lambda data, at, new: data[:at] + new + data[at:],
    lambda data, at, new: data[:at] + new + data[at + len(new) :],
    lambda data, at, new: data[:at] + data[at + len(new) :],
]


@settings(max_examples=400, deadline=None)
@given(any_message, st.floats(0, 1), st.binary(max_size=3), st.sampled_from(EDITS))
def test_edited_messages_are_canonical_or_malformed(
    message: Message, where: float, new: bytes, edit: Callable[[bytes, int, bytes], bytes]
) -> None:
    data = encode(message)
    survives(type(message), edit(data, math.floor(where * len(data)), new))


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(round_pb2.UploadRoot, delimited(1, b"SECRET") * 2, LIMIT)
    assert "SECRET" not in str(caught.value)
