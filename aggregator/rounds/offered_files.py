"""The files that silos fetch piece by piece, each under its kind and a digest that the silo already knows.

A file is about one run. No other silo than that run's has a use for it, and none is served it.
"""

from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Final

from aggregator.rounds.closed_round import ClosedRound
from aggregator.rounds.published_results import PublishedResults
from crypto.encoding.wire import encode
from crypto.errors import ProtocolError
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FILE
from sparsilo.v1 import words_pb2

PIECE_BYTES: Final = 1 << 20


class OfferedFiles:
    """Candidates of an evaluation and files of results by their SHA-256; transcripts and opened sums by the digest of
    their round.

    A kind is the name of the field of `FileRequest` that holds the digest.
    """

    def __init__(self) -> None:
        self.results = PublishedResults()
        """Of all runs so far: they are not withdrawn."""
        self._files: dict[tuple[str, bytes], tuple[Path, Collection[str]]] = {}

    def offer_candidate(self, digest: bytes, file: Path, silos: Collection[str]) -> None:
        """Serve a file from now on to those of `silos` that name its SHA-256."""
        self._files["candidate", digest] = file, silos

    def offer_opened(self, closed: ClosedRound) -> None:
        """Serve from now on what a round opened to its plan's roster: later rounds of all cohorts start from it."""
        round_ = closed.round
        self._files["transcript", round_.digest] = closed.folder / TRANSCRIPT_FILE, round_.plan.silos
        self._files["opened_sum", round_.digest] = closed.folder / SUM_FILE, round_.plan.silos

    def withdraw(self) -> None:
        """Serve none of the files any more: the run that they are about is over."""
        self._files.clear()

    async def pieces(self, silo: str, kind: str, digest: bytes, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the encoded pieces of a file, in order, from a byte on.

        Raises ProtocolError where none is offered under that name, or not to this silo.
        """
        path, silos = self._files.get((kind, digest), (None, ()))
        if kind == "result":
            path, silos = self.results.file(silo, digest), (silo,)
        if path is None or silo not in silos:
            raise ProtocolError("no such file is offered", party=silo)
        with path.open("rb") as file:
            file.seek(offset)
            while data := file.read(PIECE_BYTES):
                yield encode(words_pb2.FilePiece(data=data))
