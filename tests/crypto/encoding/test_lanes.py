"""Lanes against Python integers: a word is the sum of value * 2^(width * position)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding.lanes import lane_width, lanes_per_word, pack, unpack, words_for
from crypto.errors import CorruptSum, PlanError

WIDTHS = range(1, 65)


def reference_words(values: list[int], width: int) -> list[int]:
    words, room = [], 0
    for value in values:
        if room < width:
            words.append(0)
            room = 64
        words[-1] += value * 2 ** (64 - room)
        room -= width
    return words


@pytest.mark.parametrize(
    ("largest_sum", "width"),
    [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (15, 4), (16, 5), (2**63 - 1, 63), (2**63, 64), (2**64 - 1, 64)],
)
def test_a_lane_is_as_wide_as_its_largest_sum(largest_sum: int, width: int) -> None:
    assert lane_width(largest_sum) == width


@pytest.mark.parametrize("largest_sum", [-1, 2**64])
def test_a_sum_beyond_a_word_is_refused(largest_sum: int) -> None:
    with pytest.raises(PlanError):
        lane_width(largest_sum)


@pytest.mark.parametrize("width", [-1, 0, 65])
def test_an_impossible_width_is_refused(width: int) -> None:
    for call in (
        lambda: lanes_per_word(width),
        lambda: words_for(1, width),
        lambda: pack(np.zeros(1, np.uint8), width),
        lambda: unpack(np.zeros(1, np.uint64), width, 1),
    ):
        with pytest.raises(PlanError):
            call()


@pytest.mark.parametrize("width", WIDTHS)
def test_words_hold_as_many_whole_lanes_as_fit(width: int) -> None:
    per_word = lanes_per_word(width)
    assert per_word * width <= 64 < (per_word + 1) * width
    for lanes in (1, per_word - 1, per_word, per_word + 1, 7 * per_word, 7 * per_word + 1):
        assert words_for(lanes, width) == len(reference_words([0] * lanes, width))


@given(st.integers(1, 64), st.data())
def test_pack_and_unpack_agree_with_python_integers(width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=150))
    words = pack(np.array(values, np.uint64), width)
    assert words.dtype == np.uint64
    assert words.tolist() == reference_words(values, width)
    opened = unpack(words, width, len(values))
    assert opened.dtype == np.uint64
    assert opened.tolist() == values


@given(st.integers(1, 64), st.lists(st.booleans(), min_size=1, max_size=300), st.sampled_from(["?", "u1", "u2", "u4"]))
def test_every_input_type_packs_alike(width: int, values: list[bool], dtype: str) -> None:
    assert pack(np.array(values).astype(dtype), width).tolist() == reference_words([int(v) for v in values], width)


def test_a_strided_view_packs_like_its_copy() -> None:
    values = np.random.default_rng(1).integers(0, 16, 1001).astype(np.uint8)
    assert pack(values[::-3], 4).tolist() == reference_words([int(v) for v in values[::-3]], 4)


@pytest.mark.parametrize("width", WIDTHS)
def test_keep_masks_pack_like_python_integers(width: int) -> None:
    """Lengths around one word, around a table's 16 lanes and around the 8 words after which all bit offsets recur."""
    per_word = 64 // width
    source = np.random.default_rng(width).random(3 * 17 * max(per_word, 16)) < 0.5
    for middle in (1, per_word, 16, 8 * per_word, 16 * per_word):
        for lanes in (middle - 1, middle, middle + 1):
            columns = source.reshape(-1, 3)
            for view in (source[:lanes], source[1 : 1 + lanes], source[::-2][:lanes], columns[:lanes, 1]):
                words = pack(view, width)
                assert words.dtype == np.uint64
                assert words.tolist() == reference_words([int(value) for value in view], width)


@pytest.mark.parametrize("width", range(1, 9))
def test_every_pattern_of_16_weights_packs_and_opens(width: int) -> None:
    values = (np.arange(2**16)[:, None] >> np.arange(16) & 1).reshape(-1)
    words = pack(values.astype(np.bool_), width)
    assert words.tolist() == reference_words(values.tolist(), width)
    assert (unpack(words, width, len(values)) == values).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_byte_but_zero_is_true(width: int) -> None:
    """A keep-mask file is mapped, so its bytes reach the packing as they are."""
    values = np.arange(-256, 256).astype(np.uint8)
    expected = reference_words([int(value != 0) for value in values], width)
    assert pack(values.view(np.bool_), width).tolist() == expected


@pytest.mark.parametrize("width", WIDTHS)
def test_summed_words_open_to_the_lanewise_sum(width: int) -> None:
    """Silos share out the largest sum that a lane holds, so every lane is full and one more would carry."""
    rng = np.random.default_rng(width)
    largest, silos, lanes = 2**width - 1, 5, 3 * (64 // width) + 1
    sums = [largest if i % 3 == 0 else int.from_bytes(rng.bytes(8), "little") % (largest + 1) for i in range(lanes)]
    rows: list[list[int]] = []
    left = list(sums)
    for _ in range(silos - 1):
        rows.append([int.from_bytes(rng.bytes(8), "little") % (rest + 1) for rest in left])
        left = [rest - value for rest, value in zip(left, rows[-1], strict=True)]
    rows.append(left)
    total = [sum(column) % 2**64 for column in zip(*(reference_words(row, width) for row in rows), strict=True)]
    packed = np.zeros(len(total), np.uint64)
    for row in rows:
        packed += pack(np.array(row, np.uint64), width)
    assert packed.tolist() == total
    assert unpack(packed, width, lanes).tolist() == sums


@pytest.mark.parametrize("width", range(1, 64))
def test_a_value_must_fit_its_lane(width: int) -> None:
    pack(np.array([2**width - 1], np.uint64), width)
    with pytest.raises(PlanError, match=f"{width} bits"):
        pack(np.array([0, 2**width, 0], np.uint64), width)


def test_signed_and_real_values_are_not_packed() -> None:
    for values in (np.array([1, -1]), np.array([1.0, 0.5])):
        with pytest.raises(TypeError):
            pack(values, 8)


@pytest.mark.parametrize(("width", "short"), [(w, s) for w in WIDTHS for s in (0, 1) if s < 64 // w])
def test_every_bit_outside_the_lanes_is_noticed(width: int, short: int) -> None:
    per_word = 64 // width
    lanes = 2 * per_word - short
    full = sum((2**width - 1) << (width * position) for position in range(per_word))
    last = sum((2**width - 1) << (width * position) for position in range(per_word - short))
    assert unpack(np.array([full, last], np.uint64), width, lanes).tolist() == [2**width - 1] * lanes
    for index, used in ((0, full), (1, last)):
        for bit in range(64):
            words = np.zeros(2, np.uint64)
            words[index] = 1 << bit
            if used >> bit & 1:
                assert unpack(words, width, lanes).sum() == 2 ** (bit % width)
            else:
                with pytest.raises(CorruptSum, match="outside"):
                    unpack(words, width, lanes)


@pytest.mark.parametrize("words", [0, 1, 3])
def test_the_number_of_words_must_match(words: int) -> None:
    with pytest.raises(ValueError, match="do not fill"):
        unpack(np.zeros(words, np.uint64), 4, 17)
