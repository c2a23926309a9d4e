"""The streaming sum: the survivors' words added chunk by chunk, unmasked and opened. Memory is one chunk, whatever
the model's size.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator.spool import WORD_BYTES
from crypto.encoding.layout import Chunk, Layout, open_chunk
from crypto.secagg.session import AggregatorSession

OpenedChunk = tuple[Chunk, NDArray[np.uint64]]


def opened_chunks(layout: Layout, uploads: Sequence[Path], session: AggregatorSession) -> Iterator[OpenedChunk]:
    """Each chunk with its summed lanes, in order. Raises CorruptSum where a header does not count the survivors."""
    with ExitStack() as stack:
        files = [stack.enter_context(upload.open("rb")) for upload in uploads]
        for chunk in layout.chunks:
            total = np.zeros(chunk.words, np.uint64)
            for file in files:
                total += np.frombuffer(file.read(WORD_BYTES * chunk.words), "<u8")  # mod 2^64
            session.unmask_chunk(chunk.index, total)
            yield chunk, open_chunk(chunk, total, len(uploads))
