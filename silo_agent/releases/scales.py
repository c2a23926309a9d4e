"""The silo's side of the `scales` kind, which fixes the fixed point of the `weights` round that follows."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.layout import Chunk
from crypto.errors import CorruptSum
from crypto.plan import Plan
from crypto.releases.scales import EXPONENTS, scale_section
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.releases.silo_side import OpenedSum, SiloWork
from silo_agent.releases.votes import VotesRelease
from silo_agent.releases.weights import difference

SLICE: Final = 1 << 22
"""Weights whose differences are computed at a time."""


def prepare(work: SiloWork) -> "ScalesRelease":
    """Prune, and release how far kept weights moved."""
    files = work.pruned()
    return ScalesRelease(work.plan, work.index, files.keep_masks, PrunedFile(files.weights), work.weights)


def exponents_of(opened: OpenedSum) -> dict[str, int]:
    """Return by tensor the least e for which no silo's largest difference from the dense weight is above 2^e.

    Raises CorruptSum where not every survivor named one.
    """
    exponents = {}
    for section, named in opened.small_sections().items():
        if named.sum() != opened.survivors:
            raise CorruptSum(f"section {section}: {named.sum()} exponents of {opened.survivors} survivors")
        exponents[section] = EXPONENTS[int(np.flatnonzero(named)[-1])]
    tensors = opened.round.plan.tensors(opened.round.index)
    return {tensor.name: exponents[scale_section(tensor.name)] for tensor in tensors}


class ScalesRelease:
    """The lanes of one round: of each tensor one 1, at the exponent of its largest difference from the dense weight."""

    def __init__(self, plan: Plan, index: int, keep_masks: Path, pruned: Mapping[str, Tensor], weights: DenseWeights):
        votes = VotesRelease(plan, index, keep_masks)
        self._exponents = {}
        for tensor in plan.tensors(index):
            name, size = tensor.name, int(np.prod(tensor.shape))
            largest = _largest(votes.keep(name, 0, size), pruned[name], weights.tensor(name))
            self._exponents[scale_section(name)] = exponent(largest)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        exponents = EXPONENTS[chunk.start : chunk.start + chunk.lanes]
        lanes: NDArray[np.bool_] = np.array(exponents) == self._exponents[chunk.section.name]
        return lanes


def exponent(largest: float) -> int:
    """Return the least e in EXPONENTS with 2^e >= `largest`; where there is none, the greatest (14.2.1)."""
    if not 0 < largest < math.inf:
        return EXPONENTS[-1] if largest else EXPONENTS[0]
    fraction, e = math.frexp(largest)  # largest = fraction * 2^e, 0.5 <= fraction < 1
    e -= fraction == 0.5
    return min(max(e, EXPONENTS[0]), EXPONENTS[-1])


def _largest(keep: NDArray[np.bool_], pruned: Tensor, dense: Tensor) -> float:
    largest = 0.0
    for part in _slices(len(keep)):
        kept = np.abs(difference(pruned, dense, part)[keep[part]])
        largest = max(largest, float(np.fmax.reduce(kept, initial=0)))  # which passes over NaN
    return largest


def _slices(size: int) -> Iterator[slice]:
    return (slice(start, start + SLICE) for start in range(0, size, SLICE))
