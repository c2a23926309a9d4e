"""The calls of a round that a silo makes, as values: what is sent, and where what comes back goes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Advance:
    """Rounds.Advance with `message`; send back the answer."""

    message: bytes


@dataclass(frozen=True)
class Upload:
    """Words.Upload of `chunks()`, encoded WordChunks; every call gives the same bytes. Send back None."""

    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Committed:
    """Words.Committed with `request`; hand `take` the encoded CommittedChunks, anew on a retry. Send back None."""

    request: bytes
    take: Callable[[Iterable[bytes]], None]


Call = Advance | Upload | Committed
