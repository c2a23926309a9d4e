"""The silo's side of the `votes` kind: its keep masks as lanes, and the nonzero counts per comparison group.

The keep masks lie in a file of one byte a weight and are read chunk by chunk, so memory does not grow with the model.
"""

from collections.abc import Iterator
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk, OpenedChunk
from crypto.errors import CorruptSum
from crypto.names import ComparisonGroup
from crypto.plan import Plan, oriented
from crypto.privacy.noise_shares import VOTE_BITS, reach
from crypto.pruning.sparsity import group_shape
from crypto.releases.votes import nonzero_section, votes_section
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.tensor_files import read_tensor_file
from silo_agent.pruning.expansion import ExpandedTensor, NoisyCounts, TensorSums, expand_noisy, expand_tensor
from silo_agent.releases.silo_side import Earlier, OpenedSum, SiloWork, next_section
from sparsilo.v1 import plan_pb2


def prepare(work: SiloWork) -> "VotesRelease":
    """Prune, and release the keep masks."""
    return VotesRelease(work.plan, work.index, work.pruned().keep_masks)


def expanded(earlier: Earlier, opened: OpenedSum, weights: DenseWeights) -> Iterator[ExpandedTensor]:
    """Yield each tensor under its expanded keep mask. Raises CorruptSum where counts cannot be true."""
    plan, chunks = earlier.plan, opened.chunks()
    for tensor in plan.tensors(opened.round.index):
        dense, sparsity = weights.tensor(tensor.name), earlier.sparsity(tensor.block)
        if plan.pruning.vote_units:
            yield expand_noisy(noisy_counts_of(plan, tensor, chunks, opened.survivors), dense, sparsity)
        else:
            sums = votes_of(plan, tensor, chunks, opened.survivors)
            yield expand_tensor(sums, dense, plan.pruning, sparsity)


def votes_of(plan: Plan, tensor: plan_pb2.Tensor, chunks: Iterator[OpenedChunk], survivors: int) -> TensorSums:
    """Return a tensor's keep counts and nonzero counts, from the two sections that come next."""
    groups, size = group_shape(oriented(tensor), plan.pruning.comparison_group)
    return TensorSums(
        tensor.name,
        survivors,
        tensor.input_first,
        next_section(chunks, votes_section(tensor.name), tensor.shape, np.uint8, survivors),
        next_section(chunks, nonzero_section(tensor.name), (groups,), np.uint64, survivors * size),
    )


def noisy_counts_of(plan: Plan, tensor: plan_pb2.Tensor, chunks: Iterator[OpenedChunk], survivors: int) -> NoisyCounts:
    """Return a tensor's keep counts with noise, from the section that comes next.

    Raises CorruptSum where they add up to more, or less, than what silos keep by the plan and noise ever is.
    """
    units, furthest = plan.pruning.vote_units, reach(plan)
    most = survivors * (units + 2 * furthest)
    lanes = next_section(chunks, votes_section(tensor.name), tensor.shape, np.uint64, most).astype(np.int64)
    counts = lanes - survivors * furthest
    ranges = [plan.pruning.ratio_range(silo) for silo in plan.silos]
    fewest, kept = min(1 - most for _, most in ranges), max(1 - least for least, _ in ranges)
    noise = furthest * isqrt(survivors * counts.size) + units * survivors * max(tensor.shape)  # a group's k is a floor
    low, high = (int(survivors * units * counts.size * share) for share in (fewest, kept))
    if not low - noise <= (total := int(counts.sum())) <= high + noise:
        raise CorruptSum(f"{tensor.name}: keep counts add up to {total / units:.0f} votes, which no noise explains")
    return NoisyCounts(tensor.name, survivors, tensor.input_first, counts, units, survivors * 4**VOTE_BITS)


class VotesRelease:
    """The lanes of one round, read from a keep-mask file (bool tensors named as the model's parameters)."""

    def __init__(self, plan: Plan, index: int, file: Path) -> None:
        self._file, stored = file, read_tensor_file(file).tensors
        self._tensors = {tensor.name: tensor for tensor in plan.tensors(index)}
        self._starts = {name: stored[name].start for name in self._tensors}
        self._voted = {votes_section(name): name for name in self._tensors}
        self._counted = {nonzero_section(name): name for name in self._tensors}
        self._group = plan.pruning.comparison_group
        self._nonzero = cache(self._count_nonzero)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """Return the values of one chunk's lanes."""
        if chunk.section.name in self._voted:
            return self.keep(self._voted[chunk.section.name], chunk.start, chunk.lanes)
        return self._nonzero(self._counted[chunk.section.name])[chunk.start : chunk.start + chunk.lanes]

    def keep(self, tensor: str, start: int, lanes: int) -> NDArray[np.bool_]:
        """Return a part of a tensor's keep mask, flat."""
        # Read, not mapped: pages of a mapped file would count as the agent's memory for as long as the round takes.
        return np.fromfile(self._file, np.bool_, lanes, offset=self._starts[tensor] + start)

    def _count_nonzero(self, name: str) -> NDArray[np.uint64]:
        tensor = self._tensors[name]
        keep = self.keep(name, 0, int(np.prod(tensor.shape))).reshape(tuple(tensor.shape))
        if self._group is ComparisonGroup.LAYER:
            counts = np.array([np.count_nonzero(keep)])
        else:  # along the inputs for a row, along the outputs for a column
            counts = np.count_nonzero(keep, axis=int((self._group is ComparisonGroup.ROW) != tensor.input_first))
        return counts.astype(np.uint64)
