"""Canonical bytes: every message has exactly one encoding, and decoding refuses every other (docs/formats.md).

Signatures and digests cover encoded bytes, so two spellings of one message would be two messages.
"""

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from crypto.errors import MalformedMessage

MESSAGE_LIMIT: Final = 1 << 23
"""Bytes of one gRPC message (docs/protocol.md, 7.2)."""

_Message = TypeVar("_Message", bound=Message)


def encode(message: Message) -> bytes:
    """Return the canonical bytes: fields ascending, shortest varints, defaults omitted."""
    return message.SerializeToString(deterministic=True)


def decode(kind: type[_Message], data: bytes, limit: int, *, party: str = "") -> _Message:
    """Return the message whose canonical bytes `data` are, at most `limit` of them; `party` is who sent them.

    Raises MalformedMessage for anything else: oversized, truncated, an unknown field, a field twice or out of order,
    a longer varint than needed, an explicit default. Unknown fields are dropped and the rest encoded again, so the
    comparison catches all of them at once.
    """
    if len(data) > limit:
        raise MalformedMessage(f"{kind.DESCRIPTOR.name}: {len(data)} bytes, at most {limit} are allowed", party=party)
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage(f"{kind.DESCRIPTOR.name}: not a protobuf message of this type", party=party) from None
    message.DiscardUnknownFields()
    if encode(message) != data:
        raise MalformedMessage(
            f"{kind.DESCRIPTOR.name}: not the canonical encoding, or holds unknown fields", party=party
        )
    return message
