"""A release with this silo's share of the noise on every lane, whatever it sums."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk
from crypto.primitives.keystream import keystream
from crypto.privacy.mechanisms.discrete_gaussian import KeystreamWords, discrete_gaussian
from crypto.privacy.noise_shares import SHARE_BITS
from silo_agent.releases.silo_side import SiloRelease


class NoisyRelease:
    """Lanes of whole words, to which noise is added mod 2^64.

    The noise follows from a seed of 32 bytes and the round's digest alone: a chunk that is sent once more has the same.
    """

    def __init__(self, release: SiloRelease, seed: bytes, round_digest: bytes, shares: int) -> None:
        """`shares`: how many shares this silo adds; one, or all, where it counts on nobody else's."""
        self._release, self._seed, self._round, self._shares = release, seed, round_digest, shares

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the noisy values of one chunk's lanes."""
        random = KeystreamWords(keystream("noise", self._seed, self._round, chunk.index))
        values: NDArray[np.uint64] = self._release.lanes(chunk).astype(np.uint64)
        for _ in range(self._shares):
            values += discrete_gaussian(chunk.lanes, SHARE_BITS, random).astype(np.uint64)
        return values
