"""Discrete Gaussian noise whose standard deviation is a power of two, sampled exactly, many values at a time.

Integers x have probabilities proportional to exp(-x^2 / (2 sigma^2)). The algorithms are those of Canonne, Kamath and
Steinke ("The Discrete Gaussian for Differential Privacy", arXiv 2004.00010, Algorithms 1 to 3). For sigma = 2^bits
every probability that they draw by is a fraction of whole numbers that fit a word: nothing is rounded.
"""

from typing import Final, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import CipherContext
from numpy.typing import NDArray

LARGEST_BITS: Final = 24
"""With these a value's square fits a word, however unlikely the value."""
_BUFFER_WORDS: Final = 1 << 15

Words = NDArray[np.uint64]


class RandomWords(Protocol):
    """A source of random words."""

    def take(self, count: int) -> Words:
        """Return the next `count` uniform words."""


class KeystreamWords:
    """Random words that a keystream gives, one after the other."""

    def __init__(self, stream: CipherContext) -> None:
        self._stream, self._left = stream, np.empty(0, np.uint64)

    def take(self, count: int) -> Words:
        """Return the next `count` words, little-endian."""
        if count > len(self._left):
            fresh = np.frombuffer(self._stream.update(bytes(8 * max(count, _BUFFER_WORDS))), "<u8")
            self._left = np.concatenate([self._left, fresh])
        words, self._left = self._left[:count], self._left[count:]
        return words


def discrete_gaussian(count: int, bits: int, random: RandomWords) -> NDArray[np.int64]:
    """Return `count` independent values of a discrete Gaussian with sigma 2^bits, int64 [count] (Algorithm 3)."""
    if not 0 <= bits <= LARGEST_BITS:
        raise ValueError(f"sigma is 2^0 to 2^{LARGEST_BITS}, not 2^{bits}")
    values = np.empty(count, np.int64)
    due = np.arange(count)
    while len(due):
        proposed = _discrete_laplace(len(due), bits, random)
        # Accepted with probability exp(-(|x| - sigma)^2 / (2 sigma^2)): t of the algorithm is sigma here.
        squared = ((np.abs(proposed) - (1 << bits)) ** 2).astype(np.uint64)
        places = np.uint64(2 * bits + 1)
        whole = squared >> places
        fraction = squared - (whole << places)
        accepted = _exponential_fraction(fraction, 2 * bits + 1, random)
        accepted &= _exponential_whole(whole, random)
        values[due[accepted]] = proposed[accepted]
        due = due[~accepted]
    return values


def _discrete_laplace(count: int, bits: int, random: RandomWords) -> NDArray[np.int64]:
    """Return values x with probabilities proportional to exp(-|x| / 2^bits) (Algorithm 2)."""
    values = np.empty(count, np.int64)
    due = np.arange(count)
    while len(due):
        low = _uniform(len(due), bits, random)
        kept = _exponential_fraction(low, bits, random)
        high = np.zeros(len(due), np.int64)
        going_on = np.flatnonzero(kept)
        while len(going_on):
            going_on = going_on[_exponential_fraction(np.ones(len(going_on), np.uint64), 0, random)]
            high[going_on] += 1
        magnitude = low.astype(np.int64) + (high << bits)
        negative = random.take(len(due)) >> 63 == 1
        kept &= ~(negative & (magnitude == 0))
        values[due[kept]] = np.where(negative, -magnitude, magnitude)[kept]
        due = due[~kept]
    return values


def _exponential_whole(whole: Words, random: RandomWords) -> NDArray[np.bool_]:
    """Return for each number n a truth value that is true with probability exp(-n)."""
    true = np.ones(len(whole), np.bool_)
    at = np.flatnonzero(whole)
    left = whole[at]
    while len(at):
        kept = _exponential_fraction(np.ones(len(at), np.uint64), 0, random)
        true[at[~kept]] = False
        more = kept & (left > 1)
        at, left = at[more], left[more] - np.uint64(1)
    return true


def _exponential_fraction(numerators: Words, bits: int, random: RandomWords) -> NDArray[np.bool_]:
    """Return for each f, from 0 to 2^bits, a truth value that is true with probability exp(-f / 2^bits) (Algorithm 1).

    One counts how long draws with the probabilities f / 2^bits / k go well, for k = 1, 2, and so on.
    """
    odd = np.zeros(len(numerators), np.bool_)
    at, k = np.arange(len(numerators)), 1
    while len(at):
        well = (_uniform(len(at), bits, random) < numerators[at]) & _one_in(k, len(at), random)
        odd[at[~well]] = k % 2 == 1
        at, k = at[well], k + 1
    return odd


def _uniform(count: int, bits: int, random: RandomWords) -> Words:
    """Return uniform numbers below 2^bits; no words are taken for those that can only be 0."""
    return random.take(count) >> np.uint64(64 - bits) if bits else np.zeros(count, np.uint64)


def _one_in(k: int, count: int, random: RandomWords) -> NDArray[np.bool_]:
    """Return truth values, each true with probability 1 / k: a word in the first of k equal parts of all words."""
    if k == 1:
        return np.ones(count, np.bool_)
    part = (1 << 64) // k
    words = random.take(count).copy()
    while (beyond := np.flatnonzero(words > np.uint64(k * part - 1))).size:
        words[beyond] = random.take(beyond.size)
    return words < np.uint64(part)
