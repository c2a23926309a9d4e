"""One silo's pruning in one run: computed when a round asks for it, and kept in the run's folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from crypto.errors import PlanError
from crypto.names import Allocation, ReleaseKind, Schedule
from crypto.plan import Plan
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Sparsity
from crypto.releases.planned_rounds import release_of
from silo_agent.checkpoint.blocks import Block
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.together import Together
from silo_agent.opened_sums.walk_together import WalkTogether
from silo_agent.pruning.allocation import spread_sparsities
from silo_agent.pruning.prune import Pruned, prune_block, prune_blocks, write_pruned
from silo_agent.pruning.pruned_files import PrunedFiles, pruned_files
from silo_agent.pruning.pruners import Statistic, method
from silo_agent.releases.silo_side import Solving

TOGETHER: Final = "together"
"""The folder, in a run's, of what all silos made of the model."""

PRUNING: Final = "pruning blocks"
"""What is being done while a silo prunes."""

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""

SELF_CALIBRATED: Final = "self-calibrated"
"""The folder, in a run's, of what this silo makes of the model on text that the model writes."""


class RunPruning:
    """The silo's keep masks, weights and statistics for the rounds of one plan.

    One-shot: all blocks that the silo prunes at once, each from its own pruned blocks before. Iterative: a block a
    round, from the globally pruned blocks before; the walk through the model waits at that block for the next round.
    """

    def __init__(
        self,
        plan: Plan,
        silo: str,
        weights: DenseWeights,
        sequences: Callable[[], Tensor],
        units: Callable[[], Sequence[Sequence[Tensor]]],
        folder: Path,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self._silo, self._weights, self._sequences, self._units = silo, weights, sequences, units
        self._folder, self._device, self._progress = folder, device, partial(progress, PRUNING)
        aims = release_of(plan) is ReleaseKind.DENSE_TARGET
        self._walk = WalkTogether(weights, self._texts, device, beside_dense=aims, apart=bool(plan.pruning.clip))
        self._together = Together(plan, weights, folder / TOGETHER, device, progress)
        self.solving: Final[Solving] = self._together
        """What weights are pruned by opened sums with."""

    def files(self, start: Start) -> PrunedFiles:
        """Return what the silo made of the scope of the round that `start` is followed by."""
        block = self.plan.block(start.index) if self.plan.pruning.schedule is Schedule.ITERATIVE else None
        files = pruned_files(self._folder, block)
        if not files.keep_masks.exists():
            tensors = self._all(start) if block is None else self._one(start, block)
            write_pruned(files.keep_masks, files.weights, tensors)
        return files

    def self_calibrated(self) -> PrunedFiles:
        """Return what pruning comes to where nobody shares anything: the plan's, on text that the model writes.

        All blocks at once, one from the pruned blocks before it; OWL counts outliers on the same text. It has nothing
        of this silo's text, nor of the opened sums.
        """
        folder = self._folder / SELF_CALIBRATED
        folder.mkdir(mode=0o700, exist_ok=True)
        files = pruned_files(folder, None)
        if not files.keep_masks.exists():
            work, text = self.plan.pruning, self._together.self_text
            target, group = work.sparsity.target, PRUNERS[work.pruner].own_group
            sparsities = [Sparsity(target, group)] * len(self._weights.blocks)
            if work.allocation is Allocation.ALPHA and isinstance(target, Decimal):
                sparsities = [Sparsity(ratio, group) for ratio in work.alpha_ratios(target)]
            elif isinstance(target, Decimal):
                sparsities = spread_sparsities(self._weights, text, work.allocation, target, group, device=self._device)
            tensors = self._pruned(text, lambda block: sparsities[block.index])
            write_pruned(files.keep_masks, files.weights, tensors)
        return files

    def statistics(self, start: Start, statistic: Statistic) -> Iterator[Mapping[str, Tensor]]:
        """Yield by block of a round's scope what its prunables' inputs sum up to, by name, as `BlockWalk` has it.

        One-shot: of the dense model. Iterative: of what the silos made of the blocks before together.
        """
        block, blocks = self.plan.block(start.index), len(self._weights.blocks)
        if block is not None:
            yield _summed(self._reach(start, block), statistic)
            self._progress(block + 1, blocks)
            return
        walk = BlockWalk(self._weights, self._sequences(), device=self._device)
        for current in walk:
            if statistic == "energies":
                yield walk.energies(onward=True)
            else:
                yield walk.grams()
                if current is not self._weights.blocks[-1]:
                    walk.advance({})
            self._progress(current.index + 1, blocks)

    def energies_of_units(self, start: Start) -> Iterator[Iterator[Mapping[str, Tensor]]]:
        """Yield by block of a round's scope, and in it by unit of text, the energies of its prunables' inputs.

        They are of what `statistics` would sum up, by name: float32 [d_in]. A unit without a sequence is left out.
        """
        block, counts = self.plan.block(start.index), [len(unit) for unit in self._units() if unit]
        if not counts:
            return
        if block is not None:
            yield _of_units(self._reach(start, block).energies_of_each(), counts)
            self._progress(block + 1, len(self._weights.blocks))
            return
        walk = BlockWalk(self._weights, self._texts(), device=self._device, apart=True)
        for current in walk:
            yield _of_units(walk.energies_of_each(onward=True), counts)
            self._progress(current.index + 1, len(self._weights.blocks))

    def dense_target(self, start: Start, name: str) -> tuple[Tensor, Tensor]:
        """Return what `BlockWalk.dense_target` has of `name`, the last layer of the block that a round is about.

        Raises PlanError where that is not what it is; no text has a part in that.
        """
        block = self._weights.blocks[self.plan.block(start.index) or 0]
        walk = self._reach(start, block.index)
        if not walk.writes_last(name):
            raise PlanError(f"the plan says that {name} writes to the residual stream last, and here it does not")
        summed = walk.dense_target(name, self._together.changed(block.index))
        self._progress(block.index + 1, len(self._weights.blocks))
        return summed

    def together(self, start: Start) -> Mapping[str, Tensor]:
        """Return by name what the opened sums so far made of the model (14.3.1)."""
        self._together.take(start.opened)
        return self._together.tensors

    def _texts(self) -> Tensor | Sequence[Tensor]:
        if self.plan.pruning.clip:
            return [sequence for unit in self._units() for sequence in unit]
        return self._sequences()

    def _all(self, start: Start) -> Iterator[Pruned]:
        return self._pruned(
            self._sequences(),
            lambda block: (
                start.silo_sparsity(self._silo, block.index) if start.is_sampled_for(self._silo, block.index) else None
            ),
        )

    def _pruned(self, sequences: Tensor, sparsity: Callable[[Block], Sparsity | None]) -> Iterator[Pruned]:
        return prune_blocks(
            self._weights,
            sequences,
            pruner=self.plan.pruning.pruner,
            sparsity=sparsity,
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
        self._together.take(start.opened)
        return self._walk.at(index, self._together.changed)


def _of_units(energies: Iterator[Mapping[str, Tensor]], counts: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
    """Yield the sums of the energies of so many sequences in a row."""
    for count in counts:
        of_sequences = list(islice(energies, count))
        yield {name: torch.stack([of[name] for of in of_sequences]).sum(0) for name in of_sequences[0]}


def _summed(walk: BlockWalk, statistic: Statistic) -> Mapping[str, Tensor]:
    return walk.energies() if statistic == "energies" else walk.grams()
