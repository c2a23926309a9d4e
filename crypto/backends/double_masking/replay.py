"""Repeating the opened sum from what the silos committed to: what an auditor does in AUDIT, and anybody offline.

It needs no secret: the opening lists the seeds that removed the masks, the survivors' signed roots fix the uploads, and
the opening's own root fixes the sum (docs/protocol.md, section 5.9).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from crypto.backends.double_masking.transcript import SEED_BYTES, Auditors, opening_masks
from crypto.encoding.layout import open_chunk
from crypto.encoding.words import sum_words, words_of
from crypto.errors import BadAudit, BadUpload, CorruptSum
from crypto.names import AGGREGATOR
from crypto.primitives import merkle
from crypto.primitives.mask_stream import add_masks
from crypto.secagg.round import Round
from sparsilo.v1 import round_pb2, words_pb2


def check_opening(opening: round_pb2.Opening, survivors: Sequence[str], lost: Sequence[str]) -> None:
    """Check that the seeds are those of exactly the survivors, and of every pair of a lost silo with a survivor.

    Raises BadAudit otherwise.
    """
    pairs = [(pair.dropped, pair.survivor) for pair in opening.pair_seeds]
    seeds = [*(seed.seed for seed in opening.self_seeds), *(pair.seed for pair in opening.pair_seeds)]
    if (
        [seed.silo for seed in opening.self_seeds] != list(survivors)
        or pairs != [(dropped, survivor) for dropped in lost for survivor in survivors]
        or any(len(seed) != SEED_BYTES for seed in seeds)
        or len(opening.sum_root) != merkle.DIGEST_BYTES
    ):
        raise BadAudit("the opening's seeds are not those of the survivors and the dropped silos", party=AGGREGATOR)


def check_covered(drawn: Auditors, recomputed_by: Sequence[int], colluders: int) -> None:
    """Check that every chunk was recomputed by one of its auditors, and by all where some may collude (5.9.4).

    With one verdict a chunk, an aggregator could call its honest auditor silent. Raises BadAudit.
    """
    verdicts = np.isin(drawn, recomputed_by)
    lacking = np.flatnonzero(~(verdicts.all(axis=1) if colluders else verdicts.any(axis=1)))
    if len(lacking):
        raise BadAudit(f"{len(lacking)} chunks, chunk {lacking[0]} among them, lack a verdict", party=AGGREGATOR)


class Replay:
    """A replay fixes one round's uploads and opening; `chunk` recomputes one chunk, in any order and thread."""

    def __init__(
        self, round_: Round, participants: bytes, survivors: round_pb2.Survivors, opening: round_pb2.Opening
    ) -> None:
        self._chunks, self._lengths = round_.layout.chunks, round_.layout.lengths
        self._participants = participants
        self._roots = [(signed.silo, signed.root) for signed in survivors.roots]
        self._masks = opening_masks(round_.plan, opening)
        self._sum_root = opening.sum_root

    def chunk(self, index: int, committed: Iterable[words_pb2.CommittedChunk]) -> None:
        """Add up the survivors' words of a chunk, remove the masks, and compare with the opened words.

        `committed` has one entry a survivor, in order, and last the opened sum. Raises BadAudit naming whose words are
        not those that the root fixes, or the aggregator where the sum is another. Memory is one chunk.
        """
        chunk, pieces = self._chunks[index], iter(committed)
        total = sum_words(chunk.words, (self._words(index, pieces, silo, root) for silo, root in self._roots))
        add_masks(total, self._masks, self._participants, index)
        opened = words_of(self._words(index, pieces, "", self._sum_root))
        if not np.array_equal(total, opened) or next(pieces, None) is not None:
            raise BadAudit(f"chunk {index} as opened is not the sum of the uploads", party=AGGREGATOR)
        try:
            open_chunk(chunk, total, len(self._roots))  # false seeds give noise, and so another header
        except CorruptSum as error:
            raise BadAudit(error.message, party=AGGREGATOR) from None

    def _words(self, index: int, pieces: Iterable[words_pb2.CommittedChunk], silo: str, root: bytes) -> bytes:
        what = f"chunk {index} of {silo or 'the opened sum'}"
        piece = next(iter(pieces), None)
        if piece is None or piece.silo != silo or len(piece.words) != self._lengths[index]:
            raise BadAudit(f"{what} is missing or has another length", party=AGGREGATOR)
        try:
            committed_to = merkle.root_of_path(merkle.leaf(piece.words), index, len(self._chunks), piece.path)
        except BadUpload as error:
            raise BadAudit(f"{what}: {error.message}", party=AGGREGATOR) from None
        if committed_to != root:
            raise BadAudit(f"{what} is not what its root commits to", party=AGGREGATOR)
        return piece.words
