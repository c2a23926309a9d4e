"""An AES-256-CTR keystream, under a subkey for each purpose, context and chunk.

The subkey is HKDF-SHA256 (RFC 5869, no salt) of a 32-byte seed, so no two purposes, contexts, chunks or seeds share a
keystream and the counter can start at zero.
"""

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.names import PROTOCOL

SEED_BYTES: Final = 32
CONTEXT_BYTES: Final = 32


def keystream(purpose: str, seed: bytes, context: bytes, chunk: int) -> CipherContext:
    """Return the keystream, as what zeros are encrypted to.

    HKDF info is "sparsilo/1 ", the purpose, `context`, and `chunk` as 8 bytes little-endian. Raises ValueError unless
    `seed` and `context` are 32 bytes.
    """
    if len(seed) != SEED_BYTES or len(context) != CONTEXT_BYTES:
        raise ValueError(f"the seed and context of a {purpose} are 32 bytes each")
    info = f"{PROTOCOL} {purpose}".encode() + context + chunk.to_bytes(8, "little")
    subkey = HKDF(SHA256(), length=32, salt=None, info=info).derive(seed)
    return Cipher(algorithms.AES256(subkey), modes.CTR(bytes(16))).encryptor()
