"""The calls of a round that a silo makes, as values: what is sent, and where what comes back goes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Advance:
    """Rounds.Advance with `message`; send back the answer."""

    message: bytes


@dataclass(frozen=True)
class Upload:
    """Words.Held with `request`, then Words.Upload of `chunks(held)`: the encoded WordChunks from that index on, every
    time the same bytes. Send back None.
    """

    request: bytes
    chunks: Callable[[int], Iterator[bytes]]


@dataclass(frozen=True)
class Committed:
    """Words.Committed with `request(offset)`, which leaves out as many as came; hand `take` the encoded
    CommittedChunks. Send back None.
    """

    request: Callable[[int], bytes]
    take: Callable[[Iterable[bytes]], None]


Call = Advance | Upload | Committed
