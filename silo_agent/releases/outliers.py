"""The silo's side of the `outliers` kind: how many weights of each block stand out on this silo's text (OWL)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk
from silo_agent.pruning.allocation import outlier_counts
from silo_agent.releases.silo_side import OpenedSum, SiloWork


def prepare(work: SiloWork) -> "OutliersRelease":
    """Count outliers on the calibration sequences."""
    sequences, _ = work.sequences(0)
    return OutliersRelease(outlier_counts(work.weights, sequences, device=work.device))


def counts_of(opened: OpenedSum) -> list[int]:
    """Return the counts of all survivors together, by block."""
    (counts,) = opened.small_sections().values()
    return [int(count) for count in counts]


class OutliersRelease:
    """The lanes of one round: one count a block."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = np.array(counts, np.uint64)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        return self._counts[chunk.start : chunk.start + chunk.lanes]
