"""Merkle roots and paths against RFC 9162's recursive definitions, sections 2.1.1 and 2.1.3."""

import itertools
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import BadUpload
from crypto.primitives.merkle import Tree, leaf, root, root_of_path


def tree_hash(entries: list[bytes]) -> bytes:
    n = len(entries)
    if n == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = split(n)
    return sha256(b"\x01" + tree_hash(entries[:k]) + tree_hash(entries[k:])).digest()


def split(n: int) -> int:
    return max(2**i for i in range(n) if 2**i < n)  # the largest power of two smaller than n


def inclusion_path(m: int, entries: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.3.1."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*inclusion_path(m, entries[:k]), tree_hash(entries[k:])]
    return [*inclusion_path(m - k, entries[k:]), tree_hash(entries[:k])]


def turns(m: int, n: int) -> list[bool]:
    """From the root down to leaf m of n: whether it lies in the right half."""
    if n == 1:
        return []
    k = split(n)
    return [m >= k, *(turns(m - k, n - k) if m >= k else turns(m, k))]


@pytest.mark.parametrize("n", range(1, 71))
def test_every_size_agrees_with_the_recursive_definition(n: int) -> None:
    entries = [i.to_bytes(2, "big") * (i % 3) for i in range(n)]
    assert root([leaf(entry) for entry in entries]) == tree_hash(entries)


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=300))
def test_any_entries_agree_with_the_recursive_definition(entries: list[bytes]) -> None:
    assert root([leaf(entry) for entry in entries]) == tree_hash(entries)


def test_published_roots() -> None:
    """Entries and roots that Certificate Transparency implementations share as test data."""
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf(bytes.fromhex(entry)) for entry in entries]
    assert root(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_order_number_and_repetition_change_the_root() -> None:
    leaves = [leaf(bytes([i])) for i in range(5)]
    roots = [root(list(order)) for order in itertools.permutations(leaves)]
    roots += [root(leaves[:n]) for n in range(1, 5)] + [root([*leaves, leaves[-1]]), root(leaves + leaves[-1:] * 3)]
    assert len(set(roots)) == len(roots)


def test_an_inner_node_is_not_a_leaf() -> None:
    left, right = leaf(b"a"), leaf(b"b")
    assert root([left, right]) != leaf(left + right) != leaf(b"\x01" + left + right)


def test_a_buffer_of_words_is_hashed_as_its_bytes() -> None:
    words = np.arange(1000, dtype="<u8")
    assert leaf(words.data) == leaf(words.tobytes()) == sha256(b"\0" + words.tobytes()).digest()


def test_the_leaves_are_not_altered() -> None:
    leaves = [leaf(bytes([i])) for i in range(3)]
    root(leaves)
    assert leaves == [leaf(bytes([i])) for i in range(3)]


@pytest.mark.parametrize("leaves", [[], [b""], [leaf(b"a"), bytes(31)], [bytes(33)]])
def test_leaves_are_one_or_more_hashes(leaves: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        root(leaves)
    with pytest.raises(ValueError, match="32 bytes"):
        Tree(leaves)


@pytest.mark.parametrize("n", range(1, 71))
def test_every_path_agrees_with_the_recursive_definition(n: int) -> None:
    entries = [bytes([i]) for i in range(n)]
    tree = Tree([leaf(entry) for entry in entries])
    assert tree.root == tree_hash(entries)
    for index in range(n):
        path = inclusion_path(index, entries)
        assert tree.path(index) == path
        assert root_of_path(leaf(entries[index]), index, n, path) == tree.root


def test_published_path() -> None:
    """A path of that tree which Certificate Transparency implementations share as test data."""
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    assert [node.hex() for node in Tree([leaf(bytes.fromhex(entry)) for entry in entries]).path(5)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def reached(node: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    try:
        return root_of_path(node, index, size, path)
    except BadUpload:
        return None


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17, 23])
def test_an_altered_path_or_place_gives_another_root(n: int) -> None:
    leaves = [leaf(bytes([i])) for i in range(n)]
    tree = Tree(leaves)
    for index, node in enumerate(leaves):
        path = tree.path(index)
        for at, neighbour in enumerate(path):
            for altered in (leaf(neighbour), node, bytes(32)):
                assert reached(node, index, n, [*path[:at], altered, *path[at + 1 :]]) not in (None, tree.root)
            for cut in (b"", neighbour[:-1], neighbour + b"\x00"):
                assert reached(node, index, n, [*path[:at], cut, *path[at + 1 :]]) is None
            assert reached(node, index, n, path[:at] + path[at + 1 :]) is None
        assert reached(node, index, n, [*path, leaf(b"")]) is None
        assert reached(node, index, n, [leaf(b""), *path]) is None
        assert len(set(path)) < 2 or reached(node, index, n, path[::-1]) not in (None, tree.root)
        assert reached(leaf(b"another"), index, n, path) not in (None, tree.root)
        assert reached(node[1:], index, n, path) is None
        for other in set(range(n)) - {index}:
            assert reached(node, other, n, path) != tree.root
        for nowhere in (-1, -n, n, n + 1, 2 * n + index):
            assert reached(node, nowhere, n, path) is None
        for size in (0, -1, -n):
            assert reached(node, index, size, path) is None


@pytest.mark.parametrize("n", range(1, 18))
def test_a_path_stands_for_a_place_and_a_size_together(n: int) -> None:
    """The RFC's walk sees turns, not the size: a path is refused or leads elsewhere unless all turns are the same."""
    leaves = [leaf(bytes([i])) for i in range(n)]
    tree = Tree(leaves)
    for index, node in enumerate(leaves):
        for size in range(1, 40):
            for other in range(size):
                found = reached(node, other, size, tree.path(index))
                assert (found is None) == (len(turns(other, size)) != len(turns(index, n)))
                assert (found == tree.root) == (turns(other, size) == turns(index, n))


@pytest.mark.parametrize("index", [-1, 5, 6])
def test_there_is_no_path_of_a_leaf_outside(index: int) -> None:
    with pytest.raises(ValueError, match=f"no leaf {index} among 5"):
        Tree([leaf(bytes([i])) for i in range(5)]).path(index)


def test_a_path_of_a_large_tree_is_short() -> None:
    tree = Tree([leaf(i.to_bytes(3, "big")) for i in range(10_001)])
    assert max(len(tree.path(index)) for index in range(0, 10_001, 7)) == 14  # 2^13 < 10 001 <= 2^14
    assert root_of_path(leaf((10_000).to_bytes(3, "big")), 10_000, 10_001, tree.path(10_000)) == tree.root
    assert reached(leaf(b""), 0, 2**64, tree.path(0)) is None
