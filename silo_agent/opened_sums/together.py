"""What the opened sums of a plan make of the model: every round's tensors are computed once, and kept in a folder.

Both roles derive it, from the same sums and, where a pruner needs products of features that no round summed, from text
that the model writes (docs/adr/0040, 0041).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from crypto.names import ReleaseKind, Schedule
from crypto.plan import Plan
from crypto.pruning.sparsity import Sparsity
from crypto.releases.planned_rounds import pruning_rounds
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.opened_sums.walk_together import WalkTogether
from silo_agent.pruning.allocation import outlier_count
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.pruned_tensors import PrunedTensors
from silo_agent.releases.silo_side import OpenedSum, expanded_tensors, pooled_energies
from silo_agent.writing.self_text import WRITING, self_sequences


class Together:
    """Takes a plan's rounds up in order. `device` is where weights are solved for and the model's own text is run."""

    def __init__(
        self,
        plan: Plan,
        weights: DenseWeights,
        folder: Path,
        device: torch.device,
        progress: Callable[[str, int, int], None],
        *,
        keep_counts: bool = False,
    ) -> None:
        """`progress` is told of text that the model writes: what is being done, how much is done, how much there is.

        `keep_counts`: whether the folder also gets how many silos kept each weight.
        """
        self.plan, self.device = plan, device
        self.tensors: Final = PrunedTensors(plan, weights, folder, keep_counts=keep_counts)
        self._weights, self._progress = weights, progress
        self._taken = 0
        self._outliers: list[int] = []
        self._walk, self._dense_walk = (WalkTogether(weights, lambda: self.self_text, device) for _ in range(2))

    def take(self, opened: Sequence[OpenedRound]) -> None:
        """Take up those rounds of a plan's pruning, from its first on, that were not taken before.

        Raises CorruptSum where their sums cannot be true.
        """
        for index in range(self._taken, min(len(opened), pruning_rounds(self.plan))):
            start = Start(self.plan, opened[: index + 1], solving=self)
            self.tensors.add(expanded_tensors(start, opened[index], self._weights), opened[index].survivors)
            self._taken = index + 1

    def changed(self, block: int) -> dict[str, Tensor]:
        """Return by name what became of a block's prunables; nothing where the rounds before are not about blocks."""
        names = [tensor.name for tensor in self.plan.prunable if tensor.block == block]
        return {name: self.tensors[name] for name in names if name in self.tensors}

    def public_grams(self, block: int) -> Mapping[str, Tensor]:
        """Return X^T X of the inputs of a block's prunables on text that the model writes, as `BlockWalk.grams` does.

        With the iterative schedule it goes through the blocks that were made together before, else the dense ones.
        """
        iterative = self.plan.pruning.schedule is Schedule.ITERATIVE
        return self._walk.at(block, self.changed if iterative else lambda _: {}).grams()

    def public_energies(self, block: int, *, dense: bool) -> Mapping[str, Tensor]:
        """Return the energies of a block's inputs on text that the model writes, as `BlockWalk.energies` does.

        `dense`: they are those of the dense model, whatever was made of the blocks before.
        """
        walk, changed = (self._dense_walk, None) if dense else (self._walk, self.changed)
        return walk.at(block, changed or (lambda _: {})).energies()

    def outliers(self, dense: OpenedSum) -> Sequence[int]:
        """Return by block how many weights stand out by the pooled statistics `dense`, of the dense model (2.8.1).

        It reads every weight, and so is computed once: a plan has one such round.
        """
        if not self._outliers:
            energies = pooled_energies(dense, self)
            by_name = {tensor.name: energies[tensor.shares_input_of or tensor.name] for tensor in self.plan.prunable}
            of_block = partial(outlier_count, self._weights, energies=by_name, device=self.device)
            self._outliers = [of_block(block) for block in self._weights.blocks]
        return self._outliers

    def settled(
        self,
        solved: ExpandedTensor,
        gram: Tensor,
        sparsity: Sparsity,
        kind: ReleaseKind,
        aim: Tensor | None = None,
    ) -> ExpandedTensor:
        """Return what becomes of a tensor that was solved for with `gram`: the solution."""
        del gram, sparsity, kind, aim
        return solved

    @cached_property
    def self_text(self) -> Tensor:
        """As much text as a silo calibrates on, that the model writes: int64 [samples, L]. It takes long."""
        pruning = self.plan.message.pruning
        return self_sequences(
            self._weights,
            samples=pruning.samples,
            sequence_length=pruning.sequence_length,
            device=self.device,
            progress=partial(self._progress, WRITING),
        )
