"""The silo's side of the `weights` release (FedSpaLLM, arXiv 2410.14852): its keep masks, and by how much each kept
weight differs from the dense one, in fixed point; and of the `scales` release, which fixes the fixed point before.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import encode_signed
from crypto.encoding.layout import Chunk
from crypto.errors import PlanError
from crypto.plan import Plan
from crypto.releases.scales import EXPONENTS, scale_section
from crypto.releases.weights import DELTA_BITS, deltas_section
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.releases.votes import VotesRelease

SLICE = 1 << 22
"""Weights whose differences are computed at a time."""


class WeightsRelease(VotesRelease):
    """Lanes of one round: votes, and the differences of kept weights as multiples of 2^(exponent - 16)."""

    def __init__(
        self,
        plan: Plan,
        index: int,
        keep_masks: Path,
        pruned: Mapping[str, Tensor],
        weights: DenseWeights,
        exponents: Mapping[str, int],
    ) -> None:
        super().__init__(plan, index, keep_masks)
        self._deltas = {deltas_section(tensor.name): tensor.name for tensor in plan.tensors(index)}
        self._pruned, self._weights, self._exponents = pruned, weights, exponents

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes; PlanError where a difference is above what the scales round agreed on."""
        name = self._deltas.get(chunk.section.name)
        if name is None:
            return super().lanes(chunk)
        part = slice(chunk.start, chunk.start + chunk.lanes)
        delta, keep = (
            _difference(self._pruned[name], self._weights.tensor(name), part),
            self.keep(name, chunk.start, chunk.lanes),
        )
        encoded = encode_signed(np.where(keep, delta, 0), self._exponents[name] - DELTA_BITS, DELTA_BITS)
        encoded[~keep] = 0
        return encoded


class ScalesRelease:
    """Lanes: of each tensor one 1, at the exponent of its largest difference from the dense weight."""

    def __init__(self, plan: Plan, index: int, keep_masks: Path, pruned: Mapping[str, Tensor], weights: DenseWeights):
        votes = VotesRelease(plan, index, keep_masks)
        self._exponents = {}
        for tensor in plan.tensors(index):
            name, size = tensor.name, int(np.prod(tensor.shape))
            largest = _largest(votes.keep(name, 0, size), pruned[name], weights.tensor(name))
            self._exponents[scale_section(name)] = exponent(name, largest)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes."""
        exponents = EXPONENTS[chunk.start : chunk.start + chunk.lanes]
        lanes: NDArray[np.bool_] = np.array(exponents) == self._exponents[chunk.section.name]
        return lanes


def exponent(name: str, largest: float) -> int:
    """The least e in EXPONENTS with 2^e >= `largest`. Raises PlanError where there is none."""
    fraction, e = math.frexp(largest)  # largest = fraction * 2^e, 0.5 <= fraction < 1
    e -= fraction == 0.5
    if not math.isfinite(largest) or e > EXPONENTS[-1]:
        raise PlanError(f"{name}: pruning changed a weight by more than 2^{EXPONENTS[-1]}")
    return max(e, EXPONENTS[0]) if largest else EXPONENTS[0]


def _largest(keep: NDArray[np.bool_], pruned: Tensor, dense: Tensor) -> float:
    largest = 0.0
    for part in _slices(len(keep)):
        kept = np.abs(_difference(pruned, dense, part)[keep[part]])
        largest = max(largest, float(kept.max(initial=0)))
    return largest


def _difference(pruned: Tensor, dense: Tensor, part: slice) -> NDArray[np.float64]:
    new, old = pruned.reshape(-1)[part], dense.reshape(-1)[part]
    difference: NDArray[np.float64] = (new.to(torch.float64) - old.to(torch.float64)).numpy()
    return difference


def _slices(size: int) -> Iterator[slice]:
    return (slice(start, start + SLICE) for start in range(0, size, SLICE))
