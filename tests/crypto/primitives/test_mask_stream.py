"""The mask stream against HKDF made of HMAC by hand and AES in ECB mode over counter blocks; and its statistics."""

import hashlib
import hmac
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crypto.primitives.mask_stream import add_masks

SEED, CONTEXT = bytes(range(32)), bytes(range(100, 132))


def reference_mask(count: int, seed: bytes, context: bytes, chunk: int) -> list[int]:
    extracted = hmac.new(bytes(32), seed, hashlib.sha256).digest()
    info = b"sparsilo/1 mask stream" + context + bytes((chunk >> (8 * i)) & 255 for i in range(8))
    subkey = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    blocks = b"".join(i.to_bytes(16, "big") for i in range(count // 2 + 1))
    stream = Cipher(algorithms.AES256(subkey), modes.ECB()).encryptor().update(blocks)  # noqa: S305
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(count)]


def masked(
    count: int, seed: bytes = SEED, context: bytes = CONTEXT, chunk: int = 0, start: int = 0
) -> NDArray[np.uint64]:
    words = np.full(count, start, np.uint64)
    add_masks(words, [(seed, 1)], context, chunk)
    return words


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=70),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
    st.sampled_from([1, -1]),
)
def test_masks_are_those_of_the_independent_construction(
    plain: list[int], seed: bytes, context: bytes, chunk: int, sign: int
) -> None:
    words = np.array(plain, np.uint64)
    add_masks(words, [(seed, sign)], context, chunk)  # type: ignore[list-item]
    mask = reference_mask(len(plain), seed, context, chunk)
    assert words.tolist() == [(p + sign * m) % 2**64 for p, m in zip(plain, mask, strict=True)]


@pytest.mark.parametrize("count", [16_383, 16_384, 16_385, 32_768, 70_001])
def test_slices_continue_one_keystream(count: int) -> None:
    words = masked(count, chunk=3)
    assert words.tolist() == reference_mask(count, SEED, CONTEXT, 3)
    add_masks(words, [(SEED, -1)], CONTEXT, 3)
    assert not words.any()


@pytest.mark.parametrize("count", [0, 1, 16_385, 40_000])
def test_many_masks_add_up(count: int) -> None:
    """Masks of unlike seeds and signs, one seed twice, from an iterator."""
    masks = [(SEED, 1), (CONTEXT, -1), (SEED[::-1], -1), (SEED, 1), (CONTEXT[::-1], 1)]
    words = np.arange(count, dtype=np.uint64)
    add_masks(words, iter(masks), CONTEXT, 9)  # type: ignore[arg-type]
    signed = [[sign * m for m in reference_mask(count, seed, CONTEXT, 9)] for seed, sign in masks]
    assert words.tolist() == [sum(column) % 2**64 for column in zip(range(count), *signed, strict=True)]


def test_no_masks_change_nothing() -> None:
    words = np.arange(5, dtype=np.uint64)
    add_masks(words, [], CONTEXT, 0)
    assert words.tolist() == [0, 1, 2, 3, 4]


def test_pairwise_masks_cancel_in_the_sum() -> None:
    ours, theirs = np.arange(100, dtype=np.uint64), np.full(100, 2**64 - 1, np.uint64)
    total = ours + theirs
    add_masks(ours, [(SEED, 1)], CONTEXT, 5)
    add_masks(theirs, [(SEED, -1)], CONTEXT, 5)
    assert (ours + theirs == total).all()


def test_seed_and_context_have_32_bytes() -> None:
    words = np.zeros(4, np.uint64)
    for seed, context in ((SEED[1:], CONTEXT), (SEED + b"x", CONTEXT), (SEED, CONTEXT[1:]), (SEED, CONTEXT + b"x")):
        with pytest.raises(ValueError, match="32 bytes"):
            add_masks(words, [(SEED, 1), (seed, 1)], context, 0)
        assert not words.any(), "a refused mask leaves the words as they were"


def assert_uniform_bytes(words: NDArray[np.uint64]) -> None:
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = words.nbytes / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(statistic - 255) < 5 * math.sqrt(2 * 255)  # chi-square: mean 255, variance 2 * 255


@pytest.mark.parametrize("word", [0, 0x1111_1111_1111_1111, 2**64 - 1])
def test_masked_constant_words_are_uniform_bytes(word: int) -> None:
    assert_uniform_bytes(masked(1_300_000, start=word))


@pytest.mark.parametrize(
    ("seed", "context", "chunk"),
    [
        (SEED[::-1], CONTEXT, 0),
        (SEED, CONTEXT[::-1], 0),
        (SEED, CONTEXT, 1),
        (CONTEXT, SEED, 0),
        (SEED, CONTEXT, 2**32),
    ],
)
def test_other_chunks_contexts_and_seeds_are_unrelated(seed: bytes, context: bytes, chunk: int) -> None:
    one, other = masked(200_000), masked(200_000, seed, context, chunk)
    assert_uniform_bytes(one - other)
    assert_uniform_bytes(one ^ other)
    assert not np.isin(one, other).any()  # no shifted copy either: 4e10 pairs, 2^64 words


def test_every_bit_of_seed_context_and_chunk_counts() -> None:
    streams = {masked(4).tobytes()}
    for bit in range(256):
        flipped = (1 << bit).to_bytes(32, "big")
        streams.add(masked(4, seed=bytes(a ^ b for a, b in zip(SEED, flipped, strict=True))).tobytes())
        streams.add(masked(4, context=bytes(a ^ b for a, b in zip(CONTEXT, flipped, strict=True))).tobytes())
    streams |= {masked(4, chunk=1 << bit).tobytes() for bit in range(64)}
    assert len(streams) == 1 + 256 + 256 + 64
