"""Masks: an AES-256-CTR keystream added to words mod 2^64, under a subkey for each chunk.

The subkey is HKDF-SHA256 (RFC 5869, no salt) of a 32-byte seed, so no two chunks, contexts or seeds share a keystream
and the counter can start at zero. One (seed, context, chunk) must mask one plaintext only: two reveal their difference.
"""

from typing import Final, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from crypto.names import PROTOCOL

SEED_BYTES: Final = 32
CONTEXT_BYTES: Final = 32
_INFO: Final = f"{PROTOCOL} mask stream".encode()
_SLICE_WORDS: Final = 32_768  # 256 KiB of keystream stays in the cache between being made and being added
_ZEROS: Final = memoryview(bytes(8 * _SLICE_WORDS))


def add_mask(words: NDArray[np.uint64], seed: bytes, context: bytes, chunk: int, sign: Literal[1, -1]) -> None:
    """Add (`sign` 1) or subtract (-1) the mask of `chunk` to one-dimensional `words`, in place, mod 2^64.

    `seed` and `context` are 32 bytes each (ValueError). HKDF info is "sparsilo/1 mask stream", `context`, and `chunk`
    as 8 bytes little-endian; the keystream is read as little-endian words.
    """
    if len(seed) != SEED_BYTES or len(context) != CONTEXT_BYTES:
        raise ValueError("a mask's seed and context are 32 bytes each")
    combine = {1: np.add, -1: np.subtract}[sign]
    info = _INFO + context + chunk.to_bytes(8, "little")
    subkey = HKDF(SHA256(), length=32, salt=None, info=info).derive(seed)
    cipher = Cipher(algorithms.AES256(subkey), modes.CTR(bytes(16))).encryptor()
    keystream = np.empty(8 * min(len(words), _SLICE_WORDS), np.uint8)
    for start in range(0, len(words), _SLICE_WORDS):
        part = words[start : start + _SLICE_WORDS]
        cipher.update_into(_ZEROS[: part.nbytes], keystream.data[: part.nbytes])
        combine(part, keystream[: part.nbytes].view("<u8"), out=part)
