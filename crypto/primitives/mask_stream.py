"""Masks: an AES-256-CTR keystream added to words mod 2^64, under a subkey for each chunk.

The subkey is HKDF-SHA256 (RFC 5869, no salt) of a 32-byte seed, so no two chunks, contexts or seeds share a keystream
and the counter can start at zero. One (seed, context, chunk) must mask one plaintext only: two reveal their difference.
"""

from collections.abc import Iterable
from typing import Final, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from crypto.names import PROTOCOL

SEED_BYTES: Final = 32
CONTEXT_BYTES: Final = 32
_INFO: Final = f"{PROTOCOL} mask stream".encode()
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
    streams = [(_stream(seed, context, chunk), {1: np.add, -1: np.subtract}[sign]) for seed, sign in masks]
    keystream = np.empty(min(len(words), _SLICE_WORDS), "<u8")
    for start in range(0, len(words), _SLICE_WORDS):
        part = words[start : start + _SLICE_WORDS]
        fresh = keystream[: len(part)]
        zeros, target = _ZEROS[: part.nbytes], fresh.view(np.uint8).data
        for stream, combine in streams:
            stream.update_into(zeros, target)
            combine(part, fresh, out=part)


def _stream(seed: bytes, context: bytes, chunk: int) -> CipherContext:
    """Return the keystream. HKDF info is "sparsilo/1 mask stream", `context`, and `chunk` as 8 bytes little-endian."""
    if len(seed) != SEED_BYTES or len(context) != CONTEXT_BYTES:
        raise ValueError("a mask's seed and context are 32 bytes each")
    info = _INFO + context + chunk.to_bytes(8, "little")
    subkey = HKDF(SHA256(), length=32, salt=None, info=info).derive(seed)
    return Cipher(algorithms.AES256(subkey), modes.CTR(bytes(16))).encryptor()
