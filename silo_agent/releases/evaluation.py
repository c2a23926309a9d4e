"""The silo's side of the `evaluation` release: how well each candidate predicts text that this silo holds out.

Two numbers a candidate, the summed negative log-likelihood in fixed point and the token count; the text stays where
it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.fixed_point import encode
from crypto.encoding.layout import Chunk
from crypto.releases.evaluation import NLL_FRACTION_BITS, NLL_SECTION, TOKENS_SECTION


class EvaluationRelease:
    """Lanes from (summed negative log-likelihood in nats, token count) of each candidate, in the plan's order."""

    def __init__(self, results: Sequence[tuple[float, int]], silos: int) -> None:
        self._lanes = {
            NLL_SECTION: [encode(nll, NLL_FRACTION_BITS, silos) for nll, _ in results],
            TOKENS_SECTION: [tokens for _, tokens in results],
        }

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes."""
        return np.array(self._lanes[chunk.section.name][chunk.start : chunk.start + chunk.lanes], np.uint64)
