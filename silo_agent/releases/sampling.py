"""The silo's side of the `sampling` release: random words, whose sum is the coin that draws which silos prune which
blocks (docs/protocol.md, section 2.6). Nobody sees a silo's words before all are fixed, so nobody can choose the sum.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk
from crypto.releases.sampling import COIN_WORDS
from crypto.secagg.session import Entropy


class SamplingRelease:
    """Lanes that are drawn once."""

    def __init__(self, entropy: Entropy) -> None:
        self._words = np.frombuffer(entropy(8 * COIN_WORDS), "<u8")

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes."""
        return self._words[chunk.start : chunk.start + chunk.lanes]
