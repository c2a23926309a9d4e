"""Merkle tree of RFC 9162, section 2.1, with SHA-256: roots and inclusion proofs."""

import hashlib
from collections.abc import Sequence
from typing import Final

from crypto.errors import BadUpload

DIGEST_BYTES: Final = 32


def leaf(data: bytes | memoryview) -> bytes:
    """Hash of the leaf `data`: the byte 0 sets it apart from an inner node. A contiguous buffer is not copied."""
    digest = hashlib.sha256(b"\x00")
    digest.update(data)
    return digest.digest()


class Tree:
    """Every node over leaf hashes, in order. Raises ValueError when there is none or one is not 32 bytes.

    Pairing neighbours level by level, with an odd last node moved up unchanged, is the RFC's split at the largest power
    of two below the number of leaves (section 2.1.1).
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves or any(len(node) != DIGEST_BYTES for node in leaves):
            raise ValueError("a tree has one or more leaf hashes of 32 bytes")
        self._levels: Final = [list(leaves)]
        while len(level := self._levels[-1]) > 1:
            above = [_parent(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
            self._levels.append(above + level[2 * len(above) :])
        self.root: Final = self._levels[-1][0]

    def path(self, index: int) -> list[bytes]:
        """Inclusion proof of leaf `index` (section 2.1.3.1): up to ceil(log2 n) nodes, from the leaf's neighbour up.

        Raises ValueError when there is no such leaf.
        """
        if not 0 <= index < len(self._levels[0]):
            raise ValueError(f"there is no leaf {index} among {len(self._levels[0])}")
        beside = [(level, (index >> height) ^ 1) for height, level in enumerate(self._levels)]
        return [level[at] for level, at in beside if at < len(level)]  # a node moved up has none beside it


def root(leaves: Sequence[bytes]) -> bytes:
    """Root hash over leaf hashes, in order. Raises ValueError when there is none or one is not 32 bytes."""
    return Tree(leaves).root


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Root of the `size` leaves among which the leaf hash `leaf` is number `index` by `path` (section 2.1.3.2).

    Raises BadUpload when there is no such place, the path has another length, or a node is not 32 bytes. A path does
    not prove `size`: other sizes may give the same root, so it must be known.
    """
    at, last, from_left = index, size - 1, []
    while last > 0:
        if at % 2 or at < last:  # else the node is moved up unchanged
            from_left.append(at % 2)
        at, last = at // 2, last // 2
    whole = all(len(node) == DIGEST_BYTES for node in (leaf, *path))
    if not (0 <= index < size and len(path) == len(from_left) and whole):
        raise BadUpload(f"the path of leaf {index} among {size} is malformed")
    node = leaf
    for neighbour, is_left in zip(path, from_left, strict=True):
        node = _parent(neighbour, node) if is_left else _parent(node, neighbour)
    return node


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
