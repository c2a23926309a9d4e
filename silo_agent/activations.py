"""A model run block by block over calibration sequences, with at most one block's weights in memory.

All blocks of the skeleton are replaced by pass-throughs. One run of the rest of the model over the sequences leaves
in each what its block is called with (hidden states for the first; masks and positions for all); after that each block
is loaded, run on these and released. For the logits the pass-throughs hand the last block's outputs to the rest of the
model. No family's names or call signature are known here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crypto.errors import ConfigError
from silo_agent.dense_weights import Block, DenseWeights

TOKENS_PER_BATCH = 2048


class _PassThrough(nn.Module):
    """Stands in for a block: keeps what it is called with, and returns the hidden states in the block's own way."""

    def __init__(self, block: nn.Module, extras: list[tuple[None, ...] | None]) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a submodule: its weights are not the rest of the model's
        self.calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
        self.given: Tensor | None = None
        self.extras = extras  # shared by all blocks of a walk; empty until the first call of the first block

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)  # some models read attributes of their blocks

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.extras:  # does this family return hidden states alone, or first in a tuple?
            output = self.block(hidden_states, *args, **kwargs)
            self.extras.append((None,) * (len(output) - 1) if isinstance(output, tuple) else None)
        if self.given is None:
            self.calls.append((hidden_states, args, kwargs))
        else:
            hidden_states = self.given
        return hidden_states if self.extras[0] is None else (hidden_states, *self.extras[0])


class BlockWalk:
    """Sequences int64 [samples, L] on their way through the model's blocks.

    Iterating yields the blocks in order, each loaded while it is the current one: `energies` looks at what its dense
    weights see, `advance`, once a block, makes the next block's inputs. Compute dtype: float32 on the CPU, the stored
    dtype elsewhere. ConfigError: sequences longer than the model's positions.
    """

    def __init__(self, weights: DenseWeights, sequences: Tensor, *, device: torch.device) -> None:
        length, limit = sequences.shape[1], getattr(weights.config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise ConfigError(
                f"--sequence-length {length} is above the {limit} positions of {weights.folder}",
                hint=f"give --sequence-length {limit} or lower",
            )
        self._weights = weights
        self._device = device
        self._dtype = torch.float32 if device.type == "cpu" else weights.dtype(weights.prunable[0])
        size = max(1, TOKENS_PER_BATCH // length)
        self._batches = [sequences[start : start + size] for start in range(0, len(sequences), size)]
        self._model = weights.skeleton()
        slots = self._model.get_submodule(weights.blocks[0].prefix.rpartition(".")[0])
        self._blocks: list[nn.Module] = list(slots)
        extras: list[tuple[None, ...] | None] = []
        self._pass_throughs = [_PassThrough(block, extras) for block in self._blocks]
        for block in weights.blocks:
            slots[block.index] = self._pass_throughs[block.index]
        self._calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = []  # by block, by batch
        self._hidden = self._enter()

    @torch.no_grad()
    def _enter(self) -> list[Tensor]:
        """Run everything but the blocks; return the first block's inputs, one [batch, L, hidden] a batch."""
        first = self._weights.blocks[0]
        self._load("", self._model)
        self._load(first.prefix, self._blocks[0])  # for the pass-through's one look at it
        for ids in self._batches:
            self._model.base_model(input_ids=ids.to(self._device), use_cache=False)
        self._weights.release(self._blocks[0])
        self._weights.release(self._model)
        hidden = [call[0] for call in self._pass_throughs[0].calls]
        for pass_through in self._pass_throughs:
            self._calls.append([call[1:] for call in pass_through.calls])
            pass_through.calls.clear()  # they hold the first hidden states
        return hidden

    def __iter__(self) -> Iterator[Block]:
        for block in self._weights.blocks:
            self._block = block
            self._load(block.prefix, self._blocks[block.index])
            yield block
            self._weights.release(self._blocks[block.index])

    @torch.no_grad()
    def energies(self) -> dict[str, Tensor]:
        """Sum of squares of each input feature over all tokens, by the current block's prunable names: float32 [d_in].

        Summed in float32 inside a batch and in float64 across batches.
        """
        module = self._blocks[self._block.index]
        totals: dict[str, Tensor] = {}
        seen, energy = torch.empty(0), torch.empty(0)  # layers that share one input (q, k and v) share its energy

        def watch(name: str, layer: nn.Linear) -> torch.utils.hooks.RemovableHandle:
            totals[name] = torch.zeros(layer.in_features, dtype=torch.float64, device=self._device)

            def add(_: nn.Module, inputs: tuple[Tensor]) -> None:
                nonlocal seen, energy
                if inputs[0] is not seen:
                    seen = inputs[0]
                    energy = seen.flatten(0, -2).float().square().sum(0)
                totals[name] += energy

            return layer.register_forward_pre_hook(add)

        hooks = [watch(name, self._layer(name)) for name in self._block.prunable]
        for index in range(len(self._batches)):
            self._run(module, index)
        for hook in hooks:
            hook.remove()
        return {name: total.float() for name, total in totals.items()}

    @torch.no_grad()
    def advance(self, keep: Mapping[str, Tensor]) -> None:
        """Run the current block with the weights that `keep` (bool, by name; those without stay dense) leaves."""
        module = self._blocks[self._block.index]
        for name in self._block.prunable:
            if name in keep:
                weight = self._layer(name).weight
                weight.data = weight.masked_fill(~keep[name].to(self._device), 0)
        for index in range(len(self._batches)):
            output = self._run(module, index)
            self._hidden[index] = output[0] if isinstance(output, tuple) else output

    @torch.no_grad()
    def logits(self) -> Iterator[tuple[Tensor, Tensor]]:
        """After the last block: each batch's ids, int64 [batch, L], and logits [batch, L, vocabulary]."""
        self._load("", self._model)
        for batch, hidden in zip(self._batches, self._hidden, strict=True):
            for pass_through in self._pass_throughs:
                pass_through.given = hidden
            ids = batch.to(self._device)
            yield ids, self._model(input_ids=ids, use_cache=False).logits

    def _load(self, prefix: str, module: nn.Module) -> None:
        self._weights.load(module, prefix, self._device, self._dtype)

    def _layer(self, name: str) -> Any:
        inside = name.removeprefix(f"{self._block.prefix}.").removesuffix(".weight")
        return self._blocks[self._block.index].get_submodule(inside)

    def _run(self, module: nn.Module, index: int) -> Any:
        args, kwargs = self._calls[self._block.index][index]
        return module(self._hidden[index], *args, **kwargs)
