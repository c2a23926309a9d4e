"""The silo's side of the `sampling` kind: random words, whose sum is the coin that draws which silos prune which
blocks (docs/protocol.md, section 2.6). Nobody sees a silo's words before all are fixed, so nobody can choose the sum.
"""

from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk
from crypto.releases.sampling import COIN_WORDS
from crypto.secagg.session import Entropy
from silo_agent.releases.silo_side import OpenedSum, SiloWork

COIN: Final = b"sparsilo/1 sampling coin"


def prepare(work: SiloWork) -> "SamplingRelease":
    """Draw random words."""
    return SamplingRelease(work.entropy)


def coin_of(opened: OpenedSum) -> bytes:
    """Return the 32 bytes that nobody could foresee as long as one silo's words were random."""
    words = opened.small_sections().values()
    return sha256(COIN + b"".join(lanes.astype("<u8").tobytes() for lanes in words)).digest()


class SamplingRelease:
    """The lanes of one round, drawn once."""

    def __init__(self, entropy: Entropy) -> None:
        self._words = np.frombuffer(entropy(8 * COIN_WORDS), "<u8")

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        return self._words[chunk.start : chunk.start + chunk.lanes]
