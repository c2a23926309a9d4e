"""A release with this silo's share of the noise on every lane."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk
from crypto.plan import Plan
from crypto.primitives.keystream import keystream
from crypto.privacy.mechanisms.discrete_gaussian import KeystreamWords, discrete_gaussian
from crypto.privacy.noise_shares import SHARE_BITS, VOTE_BITS, reach
from silo_agent.releases.silo_side import SiloRelease


@dataclass(frozen=True)
class Noise:
    """What this silo adds in one round.

    It follows from a seed of 32 bytes and the round's digest alone: a chunk that is sent once more has the same.
    """

    seed: bytes = field(repr=False)
    round_digest: bytes
    shares: int
    """How many shares it adds; one, or all, where it counts on nobody else's."""

    def of(self, chunk: Chunk, bits: int) -> NDArray[np.int64]:
        """Return the noise on each lane of a chunk, whose shares have a standard deviation of 2^`bits`."""
        random = KeystreamWords(keystream("noise", self.seed, self.round_digest, chunk.index))
        noise = np.zeros(chunk.lanes, np.int64)
        for _ in range(self.shares):
            noise += discrete_gaussian(chunk.lanes, bits, random)
        return noise


class NoisyRelease:
    """Lanes of whole words, to which noise is added mod 2^64."""

    def __init__(self, release: SiloRelease, noise: Noise) -> None:
        self._release, self._noise = release, noise

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the noisy values of one chunk's lanes."""
        return self._release.lanes(chunk).astype(np.uint64) + self._noise.of(chunk, SHARE_BITS).astype(np.uint64)


class NoisyVotes:
    """Keep masks in the units of a plan, with noise that fits short lanes: from 0 to a vote and twice the reach."""

    def __init__(self, release: SiloRelease, noise: Noise, plan: Plan) -> None:
        self._release, self._noise = release, noise
        self._units, self._reach = np.uint64(plan.pruning.vote_units), reach(plan)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the noisy values of one chunk's lanes, none of which is negative."""
        noise = self._noise.of(chunk, VOTE_BITS).clip(-self._reach, self._reach) + self._reach
        return self._release.lanes(chunk) * self._units + noise.astype(np.uint64)
