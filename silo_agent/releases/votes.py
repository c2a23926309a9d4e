"""The silo's side of the `votes` release: its keep masks as lanes, and the nonzero counts per comparison group.

The keep masks lie in a file of one byte a weight and are read chunk by chunk, so memory does not grow with the model.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk
from crypto.names import ComparisonGroup
from crypto.plan import Plan, nonzero_section, votes_section


class VotesRelease:
    """Lanes of one round from a keep-mask file (bool tensors named as the model's parameters)."""

    def __init__(self, plan: Plan, index: int, file: Path) -> None:
        keep_masks = _mapped(file)
        self._tensors = {tensor.name: tensor for tensor in plan.tensors(index)}
        self.keep_masks = {name: keep_masks[name] for name in self._tensors}
        self._votes = {votes_section(name): keep for name, keep in self.keep_masks.items()}
        self._counted = {nonzero_section(name): name for name in self._tensors}
        self._group = plan.comparison_group
        self._nonzero = cache(self._count_nonzero)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes."""
        name = chunk.section.name
        values = self._votes[name] if name in self._votes else self._nonzero(self._counted[name])
        return np.asarray(values[chunk.start : chunk.start + chunk.lanes])

    def _count_nonzero(self, name: str) -> NDArray[np.uint64]:
        tensor = self._tensors[name]
        keep = self.keep_masks[name].reshape(tuple(tensor.shape))
        if self._group is ComparisonGroup.LAYER:
            counts = np.count_nonzero(keep).reshape(1)
        else:  # along the inputs for a row, along the outputs for a column
            counts = np.count_nonzero(keep, axis=int((self._group is ComparisonGroup.ROW) != tensor.input_first))
        return counts.astype(np.uint64)


def _mapped(file: Path) -> dict[str, NDArray[np.bool_]]:
    """Every tensor of a safetensors file of booleans, flat, mapped rather than read (safetensors README, "Format")."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    data = np.memmap(file, np.bool_, "r", offset=8 + length)
    return {name: data[slice(*entry["data_offsets"])] for name, entry in header.items() if name != "__metadata__"}
