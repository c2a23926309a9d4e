"""What checking a finished round's transcript comes to, whatever the backend."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from crypto.errors import SparsiloError
from crypto.secagg.round import Round
from sparsilo.v1 import words_pb2


@dataclass(frozen=True)
class Verified:
    """What a transcript proves under a roster. The words are proven by `recompute`, chunk by chunk."""

    round: Round
    survivors: tuple[str, ...]
    signed: Mapping[str, tuple[str, ...]]
    """By what was signed, the silos that signed it."""
    roots: Mapping[str, bytes]
    """Merkle roots: of each survivor's upload, and under "" of the opened sum."""
    recompute: Callable[[int, Iterable[words_pb2.CommittedChunk]], None]
    """Repeats one chunk of the sum from the survivors' words, in order, and last the opened ones.

    Chunks may come in any order and from several threads. Raises BadAudit where the opened words are not the sum.
    """

    @property
    def dropped(self) -> tuple[str, ...]:
        """Silos of the round that are in no sum."""
        return tuple(silo for silo in self.round.silos if silo not in self.survivors)


@contextmanager
def step(name: str) -> Iterator[None]:
    """An error raised inside says in which numbered step of the check it was."""
    try:
        yield
    except SparsiloError as error:
        error.message = f"step {name}: {error.message}"
        raise
