"""The streaming sum: the survivors' words added chunk by chunk, unmasked, checked and written. Memory is a few chunks,
whatever the model's size.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from crypto.encoding.layout import Chunk, Layout, open_chunk
from crypto.primitives import merkle
from crypto.secagg.session import AggregatorSession
from silo_agent.host.ahead import ahead
from silo_agent.host.direct_io import DirectAppender, open_direct, read_direct
from silo_agent.rounds.committed_words import WORD_BYTES


def write_sum(
    layout: Layout, uploads: Sequence[Path], session: AggregatorSession, file: Path, threads: int
) -> list[bytes]:
    """The opened sum as `file`, on disk when this returns; the Merkle leaves of its chunks.

    Raises CorruptSum where a header does not count the survivors.
    """
    file.write_bytes(b"")
    out = DirectAppender(file, 0)
    with ExitStack() as stack:
        descriptors = [stack.enter_context(open_direct(upload, os.O_RDONLY)) for upload in uploads]

        def opened(chunk: Chunk) -> tuple[bytes, bytes]:
            total, size, start = np.zeros(chunk.words, np.uint64), WORD_BYTES * chunk.words, layout.starts[chunk.index]
            for descriptor in descriptors:
                total += np.frombuffer(read_direct(descriptor, size, WORD_BYTES * start), "<u8")  # mod 2^64
            session.unmask_chunk(chunk.index, total)
            open_chunk(chunk, total, len(uploads))
            data = total.astype("<u8", copy=False).tobytes()
            return data, merkle.leaf(data)

        leaves = []
        for data, leaf in ahead(opened, layout.chunks, threads):
            out.append(data)
            leaves.append(leaf)
        out.sync()
    return leaves
