"""The Merkle root against RFC 9162's recursive definition, section 2.1.1."""

import itertools
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.primitives.merkle import leaf, root


def tree_hash(entries: list[bytes]) -> bytes:
    n = len(entries)
    if n == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = max(2**i for i in range(n) if 2**i < n)  # the largest power of two smaller than n
    return sha256(b"\x01" + tree_hash(entries[:k]) + tree_hash(entries[k:])).digest()


@pytest.mark.parametrize("n", range(1, 70))
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
