"""One silo's masked words on disk, as they arrive. They can be added up only once the survivors are fixed."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import BadUpload
from crypto.primitives import merkle
from silo_agent.host.direct_io import DirectAppender
from silo_agent.opened_sums.committed_words import CommittedWords, read_chunks
from sparsilo.v1 import words_pb2


class Spool:
    """A spool takes chunks strictly in order; a retry goes on after those that it holds (docs/protocol.md, 6.5).

    A restarted aggregator holds what it finds in the file.
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
        self._stream = 0

    @property
    def held(self) -> int:
        """How many chunks there are, from the first on."""
        return len(self._leaves)

    def start(self) -> int:
        """Begin a stream and return its number. What an earlier one still brings is refused."""
        self._stream += 1
        return self._stream

    def take(self, stream: int, message: bytes) -> None:
        """Take the next chunk, an encoded WordChunk. Raises BadUpload for another stream, round, order or length, and
        MalformedMessage for anything else.
        """
        if stream != self._stream:
            raise BadUpload("a newer stream has begun", party=self._silo)
        words = self._due(message)
        leaf = merkle.leaf(words)
        self._words.append(words)
        self._leaves.append(leaf)

    def root(self) -> bytes:
        """Return the Merkle root of the whole upload, which is on disk. Raises BadUpload where chunks are missing."""
        if self.held != len(self._lengths):
            raise BadUpload(f"{self.held} of {len(self._lengths)} chunks arrived", party=self._silo)
        self._words.sync()
        return merkle.root(self._leaves)

    def stored_root(self) -> bytes:
        """Return the Merkle root of the chunks that are there; nothing where there are none."""
        return merkle.root(self._leaves) if self._leaves else b""

    def committed(self) -> CommittedWords:
        """Return the whole upload, as auditors are given it."""
        return CommittedWords(self.file, self._lengths, self._silo, self._leaves)

    def _due(self, message: bytes) -> memoryview:
        """Return the words of the chunk that is due, which are neither parsed nor copied: it has one encoding only."""
        if self.held < len(self._lengths):
            length = self._lengths[self.held]
            begun = words_pb2.WordChunk(round=self._round, index=self.held)
            before = encode(begun) + _before_words(length)
            if len(message) == len(before) + length and message.startswith(before):
                return memoryview(message)[len(before) :]
        raise BadUpload(self._problem(message), party=self._silo)

    def _problem(self, message: bytes) -> str:
        chunk = decode(words_pb2.WordChunk, message, MESSAGE_LIMIT, party=self._silo)
        if chunk.round != self._round:
            return "a chunk belongs to another round"
        if chunk.index != self.held or self.held == len(self._lengths):
            return f"chunk {chunk.index} where chunk {self.held} is due"
        return f"chunk {chunk.index} has {len(chunk.words)} bytes"


@cache
def _before_words(length: int) -> bytes:
    """Return the key and length that stand before so many bytes of words."""
    return encode(words_pb2.WordChunk(words=bytes(length)))[:-length]
