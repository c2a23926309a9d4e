"""Lanes: fixed-width counters packed side by side in uint64 words.

As long as every lane's sum fits its width, adding words adds all their lanes at once and nothing carries from one
lane into the next, so packed words can be masked and summed mod 2^64 and still unpack exactly.
"""

from functools import cache
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.errors import CorruptSum, PlanError

WORD_BITS = 64
_LOOKUP = 16  # lanes set by one look-up: a table of 2^16 words, 512 KiB, stays in the cache
_PACKED_LANES = 1 << 18  # at once, so that their bytes stay in the cache and memory is reused, not faulted in anew
_SHIFTED_WORDS = 1024  # opened at once: numpy is slow over one word's few lanes, and these stay in the cache


def lane_width(largest_sum: int) -> int:
    """Return the fewest bits in which a sum of at most `largest_sum` never carries (at least 1).

    Raises PlanError when `largest_sum` is negative or needs more than one word.
    """
    if not 0 <= largest_sum < 1 << WORD_BITS:
        raise PlanError(
            "a lane's largest sum must be at least 0 and below 2^64", hint="use fewer silos or smaller values"
        )
    return max(1, largest_sum.bit_length())


def lanes_per_word(width: int) -> int:
    """Return how many lanes of `width` bits one word holds. Raises PlanError unless 1 <= width <= 64."""
    if not 1 <= width <= WORD_BITS:
        raise PlanError(f"a lane of {width} bits is impossible", hint="a lane has 1 to 64 bits")
    return WORD_BITS // width


def words_for(lanes: int, width: int) -> int:
    """Return how many words `lanes` lanes of `width` bits fill, the last one perhaps partly."""
    return -(-lanes // lanes_per_word(width))


def pack(
    values: NDArray[np.bool_ | np.unsignedinteger], width: int, out: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64]:
    """Pack one-dimensional `values` into words, lane 0 in a word's lowest bits; bits without a lane are zero.

    Returns `out`, or new words. Raises PlanError when a value needs more than `width` bits.
    """
    per_word = lanes_per_word(width)
    words = np.empty(words_for(len(values), width), np.uint64) if out is None else out
    if values.dtype == np.bool_ and width <= 8:  # wider lanes are too few a word for this to be faster
        pack_some = _fold_bytes if 8 % width == 0 else _look_up_bits
        step = _PACKED_LANES // per_word
        for start in range(0, len(words), step):
            some = words[start : start + step]
            lanes = values[start * per_word : (start + len(some)) * per_word]
            absent = len(some) * per_word - len(lanes)
            pack_some(np.pad(lanes, (0, absent)) if absent else lanes, width, some)
        return words
    if values.size and int(values.max()) >> width:
        raise PlanError(f"a value does not fit a lane of {width} bits", hint="the plan's lane width is too small")
    words[:] = 0
    for position in range(per_word):
        lane = values[position::per_word]  # a view: the last word may lack it, then it is one shorter
        words[: len(lane)] |= np.left_shift(lane, np.uint64(position * width), dtype=np.uint64)
    return words


def _fold_bytes(lanes: NDArray[Any], width: int, out: NDArray[np.uint64]) -> None:
    """Words of lanes whose width divides 8, at first one lane a byte: each step puts two bytes' lanes into one byte.

    A pair of bytes is a + 256 b; times 256 + 2^width, its high byte is a + 2^width b.
    """
    folded: NDArray[Any] = np.ascontiguousarray(lanes).view(np.uint8)
    if folded.max(initial=0) > 1:  # in a mapped file, True may be any byte but 0
        folded = (folded != 0).view(np.uint8)
    while width < 8:
        pairs = folded.view("<u2") * np.uint16(256 + (1 << width))
        pairs >>= 8
        width *= 2
        folded = pairs.astype(np.uint8) if width < 8 else pairs
    out.view(np.uint8)[:] = folded


def _look_up_bits(lanes: NDArray[Any], width: int, out: NDArray[np.uint64]) -> None:
    """Words of lanes of any width, from one bit a lane: a table gives the lanes of up to 16 bits at once.

    A word's bits begin anywhere in a byte, but `cycle` words fill whole bytes. So the words at one place in their
    cycles have their bits equally far apart and equally shifted: one strided view of the bits.
    """
    per_word = lanes_per_word(width)
    count, cycle = len(lanes) // per_word, 8 // gcd(8, per_word)
    stride = cycle * per_word // 8
    bits = np.packbits(lanes, bitorder="little").tobytes() + bytes(stride + 3)  # views reach beyond the last word
    keys = np.empty((-(-count // cycle), cycle), np.intp)
    out[:] = 0
    for first in range(0, per_word, _LOOKUP):
        size = min(_LOOKUP, per_word - first)
        for place in range(cycle):
            byte, shift = divmod(place * per_word + first, 8)
            view = np.ndarray(len(keys), "<u2" if shift + size <= 16 else "<u4", bits, byte, (stride,))
            keys[:, place] = view >> shift & (1 << size) - 1
        # "clip" spares numpy a search for keys beyond the table: there are none.
        out |= _lanes_of_bits(width, size).take(keys.reshape(-1)[:count], mode="clip") << np.uint64(first * width)


@cache
def _lanes_of_bits(width: int, lanes: int) -> NDArray[np.uint64]:
    """Return the word for each pattern of `lanes` bits: bit i is lane i."""
    words = np.zeros(1, np.uint64)
    for lane in range(lanes):
        words = np.concatenate([words, words | np.uint64(1 << lane * width)])
    return words


def unpack(words: NDArray[np.uint64], width: int, lanes: int) -> NDArray[np.uint64]:
    """Return the first `lanes` lanes of `words`, shape (lanes,). Inverse of `pack`.

    Raises CorruptSum when a bit outside those lanes is set; ValueError unless `words` has `words_for(lanes, width)`.
    """
    per_word = lanes_per_word(width)
    if words.shape != (words_for(lanes, width),):
        raise ValueError(f"{lanes} lanes of {width} bits do not fill words of shape {words.shape}")
    # Checked on the words, which are fewer: bits above a word's lanes, and in the last word above the last lane.
    # numpy shifts by 64 to zero.
    in_last = lanes - (len(words) - 1) * per_word
    if (words >> np.uint64(per_word * width)).any() or (words[-1:] >> np.uint64(in_last * width)).any():
        raise CorruptSum("bits outside the lanes are set")
    values = np.repeat(words, per_word)
    shifts = np.tile(np.arange(per_word, dtype=np.uint64) * np.uint64(width), _SHIFTED_WORDS)
    for start in range(0, len(values), len(shifts)):
        part = values[start : start + len(shifts)]
        part >>= shifts[: len(part)]
        part &= np.uint64((1 << width) - 1)
    return values[:lanes]
