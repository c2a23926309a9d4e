"""The silo's side of the `outliers` release: how many weights of each block stand out on this silo's text (OWL)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk


class OutliersRelease:
    """Lanes: one count a block."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = np.array(counts, np.uint64)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes."""
        return self._counts[chunk.start : chunk.start + chunk.lanes]
