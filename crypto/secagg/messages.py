"""The control messages of a round, decoded and held against it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crypto.encoding.wire import decode
from crypto.errors import MalformedMessage, UnexpectedMessage

MAX_MESSAGE_BYTES: Final = 1 << 22
"""The longest that a control message may be; the largest, sealed shares from each of 200 silos, has under 400 KB."""


@dataclass(frozen=True)
class Bodies(Mapping[str, Any]):
    """The bodies of messages by silo, each decoded when it is asked for: all of them have the square of the silos."""

    messages: Mapping[str, bytes]
    decode: Callable[[str, bytes], Any]

    def __getitem__(self, silo: str) -> Any:
        return self.decode(silo, self.messages[silo])

    def __iter__(self) -> Iterator[str]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)


def decode_message(kind: Any, data: bytes, digest: bytes, party: str) -> Any:
    """Return a message of the round with this digest. Raises MalformedMessage or UnexpectedMessage."""
    message = decode(kind, data, MAX_MESSAGE_BYTES, party=party)
    if message.WhichOneof("body") is None:
        raise MalformedMessage("the message has no body", party=party)
    if message.round != digest:
        raise UnexpectedMessage("the message belongs to another round or plan", party=party)
    return message
