"""A vector of chunks in a file, read chunk by chunk together with the path from each to the root that commits to it."""

import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from crypto.errors import InputError
from crypto.primitives import merkle
from silo_agent.host.direct_io import open_direct, read_direct
from sparsilo.v1 import words_pb2

# In a round's folder (docs/formats.md, section 9)
WORDS_SUFFIX: Final = ".words"
SUM_FILE: Final = f"opened_sum{WORDS_SUFFIX}"  # no silo may have an underscore in its name
TRANSCRIPT_FILE: Final = "transcript"
TRANSCRIPT_FOLDER: Final = "transcript"
"""Of a result; with `-` and its index where the run has several rounds."""


class CommittedWords:
    """An upload as it travelled, or an opened sum: chunk after chunk, of `lengths` bytes.

    `silo` is whose upload it is; empty for an opened sum. Raises InputError for a file of another length.
    """

    def __init__(self, file: Path, lengths: Sequence[int], silo: str, leaves: list[bytes] | None = None) -> None:
        self._file, self._lengths, self._silo = file, lengths, silo
        *self._starts, size = accumulate(lengths, initial=0)
        if file.stat().st_size != size:
            raise InputError(f"{file}: is not {size} bytes long", hint="of another round?")
        self.tree: Final = merkle.Tree(leaves or [merkle.leaf(data) for data in read_chunks(file, lengths)])

    def chunk(self, index: int) -> words_pb2.CommittedChunk:
        """Return one chunk and its path. Raises OSError."""
        with open_direct(self._file, os.O_RDONLY) as descriptor:
            data = bytes(read_direct(descriptor, self._lengths[index], self._starts[index]))
        return words_pb2.CommittedChunk(silo=self._silo, words=data, path=self.tree.path(index))


def read_chunks(file: Path, lengths: Sequence[int]) -> Iterator[bytes]:
    """Yield, in order, every chunk that the file holds whole, where the chunks have `lengths` bytes. Raises OSError."""
    with file.open("rb") as opened:
        for length in lengths:
            data = opened.read(length)
            if len(data) < length:
                return
            yield data
