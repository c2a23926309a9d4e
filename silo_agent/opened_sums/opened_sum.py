"""The sum of a round that is over, as a file of opened chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Layout, OpenedChunk, open_chunk
from crypto.encoding.words import words_of
from crypto.secagg.round import Round
from silo_agent.opened_sums.committed_words import read_chunks


def opened_chunks(layout: Layout, file: Path, survivors: int) -> Iterator[OpenedChunk]:
    """Yield each chunk of an opened sum with its summed lanes, in order."""
    for chunk, data in zip(layout.chunks, read_chunks(file, layout.lengths), strict=True):
        yield chunk, open_chunk(chunk, words_of(data), survivors)


@dataclass(frozen=True)
class OpenedRound:
    """A round that is over: its sum lies in `file`, and its Merkle root is what the silos signed."""

    round: Round
    survivors: int
    sum_root: bytes
    file: Path

    def chunks(self) -> Iterator[OpenedChunk]:
        """Yield the opened chunks, in order."""
        return opened_chunks(self.round.layout, self.file, self.survivors)

    def small_sections(self) -> dict[str, NDArray[np.uint64]]:
        """Return all lanes by section: for rounds that sum a few numbers."""
        lanes: dict[str, list[NDArray[np.uint64]]] = {}
        for chunk, values in self.chunks():
            lanes.setdefault(chunk.section.name, []).append(values)
        return {name: np.concatenate(pieces) for name, pieces in lanes.items()}
