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
from crypto.plan import Plan, group_shape, nonzero_section, votes_section


class VotesRelease:
    """Lanes from a keep-mask file (bool tensors named as the model's parameters, as `silo-agent prune` writes them)."""

    def __init__(self, plan: Plan, file: Path) -> None:
        keep_masks = _mapped(file)
        self._votes = {votes_section(tensor.name): keep_masks[tensor.name] for tensor in plan.prunable}
        self._shapes = {nonzero_section(t.name): (t.name, tuple(t.shape)) for t in plan.prunable}
        self._group = plan.comparison_group
        self._nonzero = cache(self._count_nonzero)

    def lanes(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk's lanes."""
        name = chunk.section.name
        values = self._votes[name] if name in self._votes else self._nonzero(name)
        return np.asarray(values[chunk.start : chunk.start + chunk.lanes])

    def _count_nonzero(self, section: str) -> NDArray[np.uint64]:
        tensor, shape = self._shapes[section]
        groups, size = group_shape(shape, self._group)
        keep_mask = self._votes[votes_section(tensor)]
        counts: NDArray[np.intp] = np.count_nonzero(keep_mask.reshape(groups, size), axis=1)
        return counts.astype(np.uint64)


def _mapped(file: Path) -> dict[str, NDArray[np.bool_]]:
    """Every tensor of a safetensors file of booleans, flat, mapped rather than read (safetensors README, "Format")."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    data = np.memmap(file, np.bool_, "r", offset=8 + length)
    return {name: data[slice(*entry["data_offsets"])] for name, entry in header.items() if name != "__metadata__"}
