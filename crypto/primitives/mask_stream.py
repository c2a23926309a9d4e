"""Masks: a keystream added to words mod 2^64, one for each chunk.

One (seed, context, chunk) must mask one plaintext only: two reveal their difference.
"""

from collections.abc import Iterable
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from crypto.primitives.keystream import keystream

PURPOSE: Final = "mask stream"
# 128 KiB of words, as much keystream and as many zeros stay in the cache over all masks; 64 words more, so that the
# header word of a chunk of 2^17 words is no slice of its own.
_SLICE_WORDS: Final = 16_384 + 64
_ZEROS: Final = memoryview(bytes(8 * _SLICE_WORDS))


def add_masks(
    words: NDArray[np.uint64], masks: Iterable[tuple[bytes, Literal[1, -1]]], context: bytes, chunk: int
) -> None:
    """Add (sign 1) or subtract (-1) the masks of `chunk`, each a seed and a sign, to one-dimensional `words` in place.

    Addition is mod 2^64; keystreams are read as little-endian words. Raises ValueError, with `words` untouched, unless
    each seed and `context` are 32 bytes.
    """
    streams = [(keystream(PURPOSE, seed, context, chunk), {1: np.add, -1: np.subtract}[sign]) for seed, sign in masks]
    slice_ = np.empty(min(len(words), _SLICE_WORDS), "<u8")
    for start in range(0, len(words), _SLICE_WORDS):
        part = words[start : start + _SLICE_WORDS]
        fresh = slice_[: len(part)]
        zeros, target = _ZEROS[: part.nbytes], fresh.view(np.uint8).data
        for stream, combine in streams:
            stream.update_into(zeros, target)
            combine(part, fresh, out=part)
