"""Lanes: fixed-width counters packed side by side in uint64 words.

As long as every lane's sum fits its width, adding words adds all their lanes at once and nothing carries from one
lane into the next, so packed words can be masked and summed mod 2^64 and still unpack exactly.
"""

import numpy as np
from numpy.typing import NDArray

from crypto.errors import CorruptSum, PlanError

WORD_BITS = 64


def lane_width(largest_sum: int) -> int:
    """Fewest bits in which a sum of at most `largest_sum` never carries (at least 1).

    Raises PlanError when `largest_sum` is negative or needs more than one word.
    """
    if not 0 <= largest_sum < 1 << WORD_BITS:
        raise PlanError(
            "a lane's largest sum must be at least 0 and below 2^64", hint="use fewer silos or smaller values"
        )
    return max(1, largest_sum.bit_length())


def lanes_per_word(width: int) -> int:
    """How many lanes of `width` bits one word holds. Raises PlanError unless 1 <= width <= 64."""
    if not 1 <= width <= WORD_BITS:
        raise PlanError(f"a lane of {width} bits is impossible", hint="a lane has 1 to 64 bits")
    return WORD_BITS // width


def words_for(lanes: int, width: int) -> int:
    """Words that `lanes` lanes of `width` bits fill, the last one perhaps partly."""
    return -(-lanes // lanes_per_word(width))


def pack(values: NDArray[np.bool_ | np.unsignedinteger], width: int) -> NDArray[np.uint64]:
    """Pack one-dimensional `values` into words, lane 0 in a word's lowest bits; bits without a lane are zero.

    Raises PlanError when a value needs more than `width` bits.
    """
    per_word = lanes_per_word(width)
    if values.size and int(values.max()) >> width:
        raise PlanError(f"a value does not fit a lane of {width} bits", hint="the plan's lane width is too small")
    words = np.zeros(words_for(len(values), width), np.uint64)
    for position in range(per_word):
        lane = values[position::per_word]  # a view: the last word may lack it, then it is one shorter
        words[: len(lane)] |= np.left_shift(lane, np.uint64(position * width), dtype=np.uint64)
    return words


def unpack(words: NDArray[np.uint64], width: int, lanes: int) -> NDArray[np.uint64]:
    """Return the first `lanes` lanes of `words`, shape (lanes,). Inverse of `pack`.

    Raises CorruptSum when a bit outside those lanes is set; ValueError unless `words` has `words_for(lanes, width)`.
    """
    per_word = lanes_per_word(width)
    if words.shape != (words_for(lanes, width),):
        raise ValueError(f"{lanes} lanes of {width} bits do not fill words of shape {words.shape}")
    values = words[:, None] >> (np.arange(per_word, dtype=np.uint64) * np.uint64(width))
    lane_bits = np.uint64((1 << width) - 1)
    # A word's highest lane still carries the bits above all lanes; lanes after the last one must be empty.
    if (values[:, -1] > lane_bits).any() or values.reshape(-1)[lanes:].any():
        raise CorruptSum("bits outside the lanes are set")
    values &= lane_bits
    return values.reshape(-1)[:lanes]
