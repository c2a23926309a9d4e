"""Sequences on their way through the model as the silos make it together, from one block to a later one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from silo_agent.checkpoint.blocks import Block
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk


class WalkTogether:
    """Waits at a block until a later one is asked for. `sequences` is called once, when the walk begins.

    With `beside_dense` they go through the dense model too, and `apart` each by itself, as `BlockWalk` has both.
    """

    def __init__(
        self,
        weights: DenseWeights,
        sequences: Callable[[], Tensor | Sequence[Tensor]],
        device: torch.device,
        *,
        beside_dense: bool = False,
        apart: bool = False,
    ) -> None:
        self._weights, self._sequences, self._device = weights, sequences, device
        self._how = {"beside_dense": beside_dense, "apart": apart}
        self._current: Block | None = None

    def at(self, index: int, changed: Callable[[int], Mapping[str, Tensor]]) -> BlockWalk:
        """Return the walk at a block. `changed` has what became of a block before it.

        For a block before the last one it begins anew: a plan's tensors are in the order of names, with block 10 before
        block 2.
        """
        if self._current is not None and index < self._current.index:
            self._current = None
            del self._walk, self._blocks
        block = self._current or next(self._blocks)
        while block.index < index:
            self._walk.advance(changed(block.index))
            block = next(self._blocks)
        self._current = block
        return self._walk

    @cached_property
    def _walk(self) -> BlockWalk:
        return BlockWalk(self._weights, self._sequences(), device=self._device, **self._how)

    @cached_property
    def _blocks(self) -> Iterator[Block]:
        return iter(self._walk)
