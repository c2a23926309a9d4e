"""The files that silos fetch piece by piece, each under its kind and a digest that the silo already knows."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from aggregator.rounds.closed_round import ClosedRound
from crypto.encoding.wire import encode
from crypto.errors import ProtocolError
from silo_agent.host.whole_file import write_whole
from silo_agent.rounds.committed_words import SUM_FILE, TRANSCRIPT_FILE
from sparsilo.v1 import words_pb2

PIECE_BYTES: Final = 1 << 20


class OfferedFiles:
    """Candidates of an evaluation by their SHA-256; transcripts and opened sums by the digest of their round.

    A kind is the name of the field of `FileRequest` that holds the digest.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[str, bytes], Path] = {}

    def offer_candidate(self, digest: bytes, file: Path) -> None:
        """Serve a file from now on to silos that name its SHA-256."""
        self._files["candidate", digest] = file

    def offer_opened(self, closed: ClosedRound) -> None:
        """Serve from now on what a round opened; its transcript is written beside the sum."""
        digest = closed.session.round.digest
        write_whole(closed.folder / TRANSCRIPT_FILE, encode(closed.session.transcript))
        self._files["transcript", digest] = closed.folder / TRANSCRIPT_FILE
        self._files["opened_sum", digest] = closed.folder / SUM_FILE

    async def pieces(self, kind: str, digest: bytes) -> AsyncIterator[bytes]:
        """Yield the encoded pieces of a file, in order. Raises ProtocolError where none is offered under that name."""
        if (kind, digest) not in self._files:
            raise ProtocolError("no such file is offered")
        with self._files[kind, digest].open("rb") as file:
            while data := file.read(PIECE_BYTES):
                yield encode(words_pb2.FilePiece(data=data))
