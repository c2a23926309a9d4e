"""Stand-ins for a model's blocks: what the rest of the model does with them is what a walk through them relies on."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees


class PassThrough(nn.Module):
    """Stands in for a block: keeps what it is called with, and returns the hidden states in the block's own way."""

    def __init__(self, block: nn.Module, extras: list[tuple[Any, ...] | None]) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a submodule: its weights are not the rest of the model's
        self.called: tuple[Any, ...] = ()
        self.calls = 0
        self.given: Tensor | None = None
        self.extras = extras  # shared by all blocks of a walk; empty until the first call of the first block
        self.returns_extras = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)  # some models read attributes of their blocks

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden states, or `given`, and None (or the first block's) for what else that returns."""
        if not self.extras:  # does this family return hidden states alone, or first of several?
            output = self.block(hidden_states, *args, **kwargs)
            self.extras.append(None if isinstance(output, Tensor) else (*output[1:],))
        self.called = hidden_states, args, kwargs
        self.calls += 1
        if self.given is not None:
            hidden_states = self.given
        extras = self.extras[0]
        if extras is None:
            return hidden_states
        return (hidden_states, *(extras if self.returns_extras else (None,) * len(extras)))


def unlike_a_chain(pass_throughs: Sequence[PassThrough], run: Callable[[], object]) -> str | None:
    """Return what goes from block to block in `run` beside the hidden states, if anything does.

    In a second run each block hands on other numbers, and the first block's extras in place of None: the numbers must
    reach the next one as they are, and nothing else of what it is called with may change.
    """
    run()
    if {pass_through.calls for pass_through in pass_throughs} != {1}:
        return "a text does not go through each of its blocks once"
    calls = [pass_through.called for pass_through in pass_throughs]
    numbers = torch.Generator().manual_seed(0)
    for pass_through, (hidden, *_) in zip(pass_throughs, calls, strict=True):
        pass_through.given = torch.randn(hidden.shape, generator=numbers).to(hidden)
        pass_through.returns_extras = True
    run()
    handed_on = [pass_through.given for pass_through in pass_throughs]
    for pass_through in pass_throughs:
        pass_through.given, pass_through.returns_extras = None, False
    for given, after, (_, *others) in zip(handed_on, pass_throughs[1:], calls[1:], strict=False):
        if not equal_calls(given, after.called[0], changeable=False):
            return "it changes hidden states between its blocks"
        if not equal_calls(others, [*after.called[1:]], changeable=True):
            return "its blocks hand on more than hidden states"
    return None


def equal_calls(left: Any, right: Any, *, changeable: bool) -> bool:
    """Return whether two nests of tuples, lists and dicts hold equal tensors and values.

    `changeable` is the answer for two objects of a kind that can change (and so has no hash): blocks may write to them.
    """

    def same(leaf: Any, other: Any) -> bool:
        if type(leaf) is not type(other):
            return False
        if isinstance(leaf, Tensor):
            return torch.equal(leaf, other)
        return bool(leaf == other) if isinstance(leaf, Hashable) else changeable

    leaves = trees.tree_leaves(left), trees.tree_leaves(right)
    return len(leaves[0]) == len(leaves[1]) and all(map(same, *leaves))
