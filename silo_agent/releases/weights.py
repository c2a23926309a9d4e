"""The silo's side of the `weights` kind (FedSpaLLM, arXiv 2410.14852): its keep masks, and by how much each kept weight
differs from the dense one, in fixed point.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import decode_average, encode_signed
from crypto.encoding.layout import Chunk
from crypto.plan import Plan
from crypto.releases.weights import DELTA_BITS, deltas_section
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.pruned_file import PrunedFile
from silo_agent.pruning.expansion import ExpandedTensor, expand_tensor
from silo_agent.releases.silo_side import Earlier, OpenedSum, SiloWork, next_section
from silo_agent.releases.votes import VotesRelease, votes_of


def prepare(work: SiloWork) -> "WeightsRelease":
    """Prune, and release keep masks and differences at the scale that the round before has fixed."""
    files, exponents = work.pruned(), work.earlier.exponents(work.block)
    pruned = PrunedFile(files.weights)
    return WeightsRelease(work.plan, work.index, files.keep_masks, pruned, work.weights, exponents)


def expanded(earlier: Earlier, opened: OpenedSum, weights: DenseWeights) -> Iterator[ExpandedTensor]:
    """Yield each tensor with its l0 average under its expanded keep mask. Raises CorruptSum where sums cannot be true.

    The l0 average is the mean over the survivors that kept a weight (FedSpaLLM, section 4.1).
    """
    plan, chunks = earlier.plan, opened.chunks()
    exponents = earlier.exponents(plan.block(opened.round.index))
    for tensor in plan.tensors(opened.round.index):
        sums = votes_of(plan, tensor, chunks, opened.survivors)
        most = opened.survivors << DELTA_BITS + 1
        deltas = next_section(chunks, deltas_section(tensor.name), tensor.shape, np.uint64, most)
        average = decode_average(deltas, sums.keep_counts, exponents[tensor.name] - DELTA_BITS, DELTA_BITS)
        sums = replace(sums, average_change=average)
        yield expand_tensor(sums, weights.tensor(tensor.name), plan.pruning, earlier.sparsity(tensor.block))


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
        """Return the values of one chunk's lanes; a difference above what the scales round agreed on is cut to that."""
        name = self._deltas.get(chunk.section.name)
        if name is None:
            return super().lanes(chunk)
        part = slice(chunk.start, chunk.start + chunk.lanes)
        delta, keep = (
            difference(self._pruned[name], self._weights.tensor(name), part),
            self.keep(name, chunk.start, chunk.lanes),
        )
        encoded = encode_signed(np.where(keep, delta, 0), self._exponents[name] - DELTA_BITS, DELTA_BITS)
        encoded[~keep] = 0
        return encoded


def difference(pruned: Tensor, dense: Tensor, part: slice) -> NDArray[np.float64]:
    """Return by how much a part of a tensor, flat, differs from the dense one."""
    new, old = pruned.reshape(-1)[part], dense.reshape(-1)[part]
    change: NDArray[np.float64] = (new.to(torch.float64) - old.to(torch.float64)).numpy()
    return change
