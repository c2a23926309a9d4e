"""One silo's pruning in one run: computed when a round asks for it, and kept in the run's folder."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from crypto.names import Schedule
from crypto.plan import Plan
from silo_agent.model.activations import BlockWalk
from silo_agent.model.blocks import Block
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.pruning.prune import Pruned, prune_block, prune_blocks, write_pruned
from silo_agent.pruning.pruned_files import PrunedFiles, pruned_files
from silo_agent.pruning.pruners import method
from silo_agent.rounds.opened_rounds import Start


class RunPruning:
    """The silo's keep masks and weights for the rounds of one plan.

    One-shot: all blocks that the silo prunes at once, each from its own pruned blocks before. Iterative: a block a
    round, from the globally pruned blocks before; the walk through the model waits at that block for the next round.
    """

    def __init__(
        self,
        plan: Plan,
        silo: str,
        weights: DenseWeights,
        sequences: Callable[[], Tensor],
        folder: Path,
        device: torch.device,
        progress: Callable[[int, int], None],
    ) -> None:
        self.plan = plan
        self._silo, self._weights, self._sequences = silo, weights, sequences
        self._folder, self._device, self._progress = folder, device, progress
        self._current: Block | None = None

    def files(self, start: Start) -> PrunedFiles:
        """Return what the silo made of the scope of the round that `start` is followed by."""
        block = self.plan.block(start.index) if self.plan.pruning.schedule is Schedule.ITERATIVE else None
        files = pruned_files(self._folder, block)
        if not files.keep_masks.exists():
            tensors = self._all(start) if block is None else self._one(start, block)
            write_pruned(files.keep_masks, files.weights, tensors)
        return files

    def _all(self, start: Start) -> Iterator[Pruned]:
        return prune_blocks(
            self._weights,
            self._sequences(),
            pruner=self.plan.pruning.pruner,
            sparsity=lambda block: (
                start.silo_sparsity(self._silo, block.index) if start.is_sampled_for(self._silo, block.index) else None
            ),
            device=self._device,
            progress=self._progress,
        )

    def _one(self, start: Start, index: int) -> Iterator[Pruned]:
        sparsity, pruner = start.silo_sparsity(self._silo, index), self.plan.pruning.pruner
        walk = self._reach(start, index) if method(pruner).STATISTIC else None
        yield from prune_block(walk, self._weights.blocks[index], self._weights, pruner, sparsity, self._device)
        self._progress(index + 1, len(self._weights.blocks))

    def _reach(self, start: Start, index: int) -> BlockWalk:
        """Return the walk at a block, on the outputs of the globally pruned ones before it."""
        block = self._current or next(self._blocks)
        while block.index < index:
            self._walk.advance(start.globally_pruned(block.index, self._weights))
            block = next(self._blocks)
        self._current = block
        return self._walk

    @cached_property
    def _walk(self) -> BlockWalk:
        return BlockWalk(self._weights, self._sequences(), device=self._device)

    @cached_property
    def _blocks(self) -> Iterator[Block]:
        return iter(self._walk)
