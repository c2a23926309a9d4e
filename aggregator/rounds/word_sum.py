"""The streaming sum: the survivors' uploads folded chunk by chunk, unmasked, checked and written. Memory is a few
chunks, whatever the model's size.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

from crypto.backends.backend_spec import backend_spec
from crypto.encoding.layout import Chunk, Layout, open_chunk
from crypto.encoding.words import word_bytes
from crypto.primitives import merkle
from crypto.secagg.session import AggregatorSession
from silo_agent.host.ahead import ahead
from silo_agent.host.direct_io import DirectAppender, open_direct, read_direct


def write_sum(
    layout: Layout, uploads: Sequence[Path], session: AggregatorSession, file: Path, threads: int
) -> list[bytes]:
    """Write the opened sum to `file`, on disk when this returns; return the Merkle leaves of its chunks.

    Raises CorruptSum where a header does not count the survivors.
    """
    spec = backend_spec(session.round.plan.backend)
    lengths = spec.upload_lengths(layout)
    starts = list(accumulate(lengths, initial=0))
    file.write_bytes(b"")
    out = DirectAppender(file, 0)
    with ExitStack() as stack:
        descriptors = [stack.enter_context(open_direct(upload, os.O_RDONLY)) for upload in uploads]

        def opened(chunk: Chunk) -> tuple[bytes, bytes]:
            at, size = starts[chunk.index], lengths[chunk.index]
            words = spec.fold(chunk.words, (read_direct(descriptor, size, at) for descriptor in descriptors))
            session.unmask_chunk(chunk.index, words)
            open_chunk(chunk, words, len(uploads))
            data = word_bytes(words)
            return data, merkle.leaf(data)

        leaves = []
        for data, leaf in ahead(opened, layout.chunks, threads):
            out.append(data)
            leaves.append(leaf)
        out.sync()
    return leaves
