"""The silo's side of the `votes` release: its keep masks as lanes, and the nonzero counts per comparison group.

The keep masks lie in a file of one byte a weight and are read chunk by chunk, so memory does not grow with the model.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk
from crypto.names import ComparisonGroup
from crypto.plan import Plan
from crypto.releases.votes import nonzero_section, votes_section
from silo_agent.model.tensor_files import read_tensor_file


class VotesRelease:
    """Lanes of one round from a keep-mask file (bool tensors named as the model's parameters)."""

    def __init__(self, plan: Plan, index: int, file: Path) -> None:
        self._file, stored = file, read_tensor_file(file).tensors
        self._tensors = {tensor.name: tensor for tensor in plan.tensors(index)}
        self._starts = {name: stored[name].start for name in self._tensors}
        self._voted = {votes_section(name): name for name in self._tensors}
        self._counted = {nonzero_section(name): name for name in self._tensors}
        self._group = plan.pruning.comparison_group
        self._nonzero = cache(self._count_nonzero)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes."""
        if chunk.section.name in self._voted:
            return self.keep(self._voted[chunk.section.name], chunk.start, chunk.lanes)
        return self._nonzero(self._counted[chunk.section.name])[chunk.start : chunk.start + chunk.lanes]

    def keep(self, tensor: str, start: int, lanes: int) -> NDArray[np.bool_]:
        """A part of a tensor's keep mask, flat."""
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
