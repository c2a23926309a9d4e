"""The aggregator's side of the `votes` release: opened sums become keep counts, and those the expanded keep mask.

One tensor at a time: its counts are checked, expanded and written before the next one's chunks are opened.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aggregator.mask_expansion import expand
from aggregator.sparse_checkpoint import write_tensors
from aggregator.word_sum import OpenedChunk
from crypto.errors import CorruptSum
from crypto.names import ComparisonGroup
from crypto.plan import Plan, group_shape, nonzero_section, votes_section
from silo_agent.dense_weights import DenseWeights
from silo_agent.keep_mask_file import READ_BYTES, file_digest
from sparsilo.v1 import plan_pb2


@dataclass(frozen=True)
class OpenedVotes:
    """What a votes round comes to, as files in its folder."""

    plan: Plan
    folder: Path

    @property
    def keep_mask(self) -> Path:
        """The expanded keep mask: bool tensors named as the model's parameters."""
        return self.folder / "keep_mask.safetensors"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the keep-mask file."""
        return file_digest(self.keep_mask)

    def write_counts(self, file: Path) -> None:
        """The keep counts as uint8 tensors named as the model's parameters."""
        self._write(file, "U8", "counts")

    def _write(self, file: Path, dtype: str, kind: str) -> None:
        tensors = [(tensor.name, dtype, tuple(tensor.shape)) for tensor in self.plan.prunable]
        write_tensors(file, tensors, lambda name: _read(self._scratch(name, kind)), {})

    def _scratch(self, tensor: str, kind: str) -> Path:
        return self.folder / f"{tensor}.{kind}"


def open_votes(
    plan: Plan, chunks: Iterable[OpenedChunk], survivors: int, weights: DenseWeights, folder: Path
) -> OpenedVotes:
    """Keep counts and expanded keep mask of every prunable tensor, written into `folder`.

    Raises CorruptSum where a count exceeds the survivors or a group's counts do not add up to its nonzero count.
    These checks detect faults; they are no security, since a silo that lies can lie consistently.
    """
    opened = OpenedVotes(plan, folder)
    sections = iter(chunks)
    for tensor in plan.prunable:
        counts = _collect(sections, votes_section(tensor.name), int(np.prod(tensor.shape)))
        nonzero = _collect(sections, nonzero_section(tensor.name), group_shape(tensor.shape, plan.comparison_group)[0])
        _check_counts(tensor, counts, nonzero, survivors, plan.comparison_group)
        compact = counts.astype(np.uint8).reshape(tuple(tensor.shape))  # at most 200 silos
        keep = expand(
            torch.from_numpy(compact), weights.tensor(tensor.name), plan.sparsity_ratio, plan.comparison_group
        )
        opened._scratch(tensor.name, "counts").write_bytes(compact.tobytes())
        opened._scratch(tensor.name, "keep").write_bytes(keep.numpy().tobytes())
    opened._write(opened.keep_mask, "BOOL", "keep")
    return opened


def _collect(chunks: Iterator[OpenedChunk], section: str, lanes: int) -> NDArray[np.uint64]:
    values = np.empty(lanes, np.uint64)
    filled = 0
    while filled < lanes:
        chunk, opened = next(chunks)
        if chunk.section.name != section:
            raise RuntimeError(f"section {chunk.section.name} where {section} is due")
        values[chunk.start : chunk.start + chunk.lanes] = opened
        filled += chunk.lanes
    return values


def _check_counts(
    tensor: plan_pb2.Tensor,
    counts: NDArray[np.uint64],
    nonzero: NDArray[np.uint64],
    survivors: int,
    group: ComparisonGroup,
) -> None:
    if counts.max() > survivors:
        raise CorruptSum(f"{tensor.name}: a keep count is {counts.max()} of {survivors} survivors")
    sums = counts.reshape(group_shape(tensor.shape, group)).sum(axis=1)
    if not np.array_equal(sums, nonzero):
        at = int(np.flatnonzero(sums != nonzero)[0])
        raise CorruptSum(f"{tensor.name}: group {at} has {sums[at]} kept by count and {nonzero[at]} by nonzero count")


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while data := opened.read(READ_BYTES):
            yield data
