"""A vector of chunks in a file, read chunk by chunk together with the path from each to the root that commits to it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crypto.encoding.layout import Layout
from crypto.errors import InputError
from crypto.primitives import merkle
from silo_agent.host.direct_io import open_direct, read_direct
from sparsilo.v1 import words_pb2

WORD_BYTES: Final = 8

# In a round's folder (docs/formats.md, section 9)
WORDS_SUFFIX: Final = ".words"
SUM_FILE: Final = f"opened_sum{WORDS_SUFFIX}"  # no silo may have an underscore in its name
TRANSCRIPT_FILE: Final = "transcript"


class CommittedWords:
    """Words as they travelled, chunk after chunk. `silo` is whose upload it is; empty for an opened sum."""

    def __init__(self, file: Path, layout: Layout, silo: str, leaves: list[bytes] | None = None) -> None:
        self._file, self._layout, self._silo = file, layout, silo
        if file.stat().st_size != WORD_BYTES * layout.total_words:
            raise InputError(f"{file}: is not {WORD_BYTES * layout.total_words} bytes long", hint="of another round?")
        self.tree: Final = merkle.Tree(leaves or [merkle.leaf(data) for data in read_chunks(file, layout)])

    def chunk(self, index: int) -> words_pb2.CommittedChunk:
        """One chunk and its path."""
        size, start = WORD_BYTES * self._layout.chunks[index].words, WORD_BYTES * self._layout.starts[index]
        with open_direct(self._file, os.O_RDONLY) as descriptor:
            data = bytes(read_direct(descriptor, size, start))
        return words_pb2.CommittedChunk(silo=self._silo, words=data, path=self.tree.path(index))


def read_chunks(file: Path, layout: Layout) -> Iterator[bytes]:
    """The bytes of every chunk that the file holds whole, in order."""
    with file.open("rb") as opened:
        for chunk in layout.chunks:
            data = opened.read(WORD_BYTES * chunk.words)
            if len(data) < WORD_BYTES * chunk.words:
                return
            yield data
