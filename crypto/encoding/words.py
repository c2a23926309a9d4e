"""Words: unsigned 64-bit integers, little-endian wherever they travel or lie in a file; sums of them wrap at 2^64."""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
WORD_BYTES: Final = 8

ChunkBytes = bytes | memoryview
"""One chunk of an upload, as it travelled."""


def word_bytes(words: Words) -> bytes:
    """Return the words as they travel, `WORD_BYTES` each."""
    return words.astype("<u8", copy=False).tobytes()


def words_of(data: ChunkBytes) -> Words:
    """Return the words that `data` holds, shape (bytes / 8,), without a copy. Raises ValueError for half a word."""
    return np.frombuffer(data, "<u8")


def sum_words(words: int, uploads: Iterable[ChunkBytes]) -> Words:
    """Return the sum mod 2^64 of the uploads of one chunk, shape (words,). Each is read before the next is asked for.

    Raises ValueError for an upload of another length.
    """
    total = np.zeros(words, np.uint64)
    for upload in uploads:
        total += words_of(upload)
    return total
