"""Merkle tree root of RFC 9162, section 2.1.1, with SHA-256."""

import hashlib
from collections.abc import Sequence
from typing import Final

DIGEST_BYTES: Final = 32


def leaf(data: bytes | memoryview) -> bytes:
    """Hash of the leaf `data`: the byte 0 sets it apart from an inner node. A contiguous buffer is not copied."""
    digest = hashlib.sha256(b"\x00")
    digest.update(data)
    return digest.digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Root hash over leaf hashes, in order. Raises ValueError when there is none or one is not 32 bytes.

    Pairing neighbours level by level, with an odd last node moved up unchanged, is the RFC's split at the largest power
    of two below the number of leaves.
    """
    if not leaves or any(len(node) != DIGEST_BYTES for node in leaves):
        raise ValueError("a tree has one or more leaf hashes of 32 bytes")
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
        level = above + level[2 * len(above) :]
    return level[0]
