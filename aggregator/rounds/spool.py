"""One silo's masked words on disk, as they arrive. They can be added up only once the survivors are fixed."""

from collections.abc import Sequence
from pathlib import Path

from crypto.errors import BadUpload
from crypto.primitives import merkle
from silo_agent.host.direct_io import DirectAppender
from silo_agent.rounds.committed_words import CommittedWords, read_chunks
from sparsilo.v1 import words_pb2


class Spool:
    """A spool takes chunks strictly in order; a retry starts over with the same bytes (docs/protocol.md, section 6.5).

    What a restarted aggregator finds in the file counts as sent before.
    """

    def __init__(self, file: Path, lengths: Sequence[int], round_digest: bytes, silo: str) -> None:
        """`lengths` says how many bytes each chunk of the upload has. Raises OSError."""
        self.file = file
        self._lengths = lengths
        self._round = round_digest
        self._silo = silo
        file.touch()
        self._leaves = [merkle.leaf(data) for data in read_chunks(file, lengths)]
        self._words = DirectAppender(file, sum(lengths[: len(self._leaves)]))
        self._next = 0
        self._stream = 0

    def start(self) -> int:
        """Begin a stream, the first or a retry, and return its number. What an earlier one still brings is refused."""
        self._next = 0
        self._stream += 1
        return self._stream

    def take(self, stream: int, message: words_pb2.WordChunk) -> None:
        """Take the next chunk. Raises BadUpload for another round, order or length, or for other bytes on a retry."""
        if stream != self._stream:
            raise BadUpload("a newer stream has begun", party=self._silo)
        if message.round != self._round:
            raise BadUpload("a chunk belongs to another round", party=self._silo)
        if message.index != self._next or self._next == len(self._lengths):
            raise BadUpload(f"chunk {message.index} where chunk {self._next} is due", party=self._silo)
        if len(message.words) != self._lengths[self._next]:
            raise BadUpload(f"chunk {message.index} has {len(message.words)} bytes", party=self._silo)
        leaf = merkle.leaf(message.words)
        if self._next == len(self._leaves):
            self._words.append(message.words)
            self._leaves.append(leaf)
        elif leaf != self._leaves[self._next]:
            raise BadUpload(f"chunk {message.index} is not what was sent before", party=self._silo)
        self._next += 1

    def root(self) -> bytes:
        """Return the Merkle root of the whole upload, which is on disk. Raises BadUpload where chunks are missing."""
        if self._next != len(self._lengths):
            raise BadUpload(f"{self._next} of {len(self._lengths)} chunks arrived", party=self._silo)
        self._words.sync()
        return merkle.root(self._leaves)

    def committed(self) -> CommittedWords:
        """Return the whole upload, as auditors are given it."""
        return CommittedWords(self.file, self._lengths, self._silo, self._leaves)
