"""A silo's own pruning, block by block: keep masks, and new weights where the pruner changes them."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from crypto.errors import ModelError, OutputError, PlanError
from crypto.names import Bits, Pruner
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.blocks import Block
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.mapped_tensors import STORED_NAMES
from silo_agent.checkpoint.tensor_files import Entry, write_tensor_file
from silo_agent.model.activations import BlockWalk
from silo_agent.pruning.pruners import method
from silo_agent.second_order.gptq import Quantised, quantise

FEW_TOKENS: Final = 128
"""An expert or layer that fewer calibration tokens reached is named in a warning: its statistics say little."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruned:
    """What became of a prunable weight, in the shape in which it is stored, on the CPU."""

    name: str
    keep: Tensor
    """Keep mask, bool."""
    weight: Tensor | None
    """The new weight in the stored dtype, zero where not kept; None where the pruner leaves kept weights alone."""
    quantised: Quantised | None = None
    """What `weight` is as integers; None where it is not."""

    @property
    def changed(self) -> Tensor:
        """The new weight, or the keep mask where there is none: what `BlockWalk.advance` takes."""
        return self.keep if self.weight is None else self.weight


def prune_weight(
    weights: DenseWeights,
    name: str,
    statistic: Tensor | None,
    pruner: Pruner,
    sparsity: Sparsity,
    device: torch.device,
    aim: Tensor | None = None,
) -> Pruned:
    """Prune one stored weight by the `statistic` of its inputs that the pruner's `STATISTIC` says.

    With `aim`, float32 [d_out, d_in] on `device`, the pruner gets that in place of the dense weight. A kept weight
    whose new value does not fit the stored dtype stays dense. Raises ModelError where the weight has NaN or infinity,
    PlanError where a pattern does not divide d_in; nothing that depends on the statistic.
    """
    stored = weights.tensor(name).to(device)
    weight = stored.T if weights.input_first(name) else stored
    if not stored.isfinite().all():
        raise ModelError(f"{weights.folder}: {name}: weights are not finite", hint="copy the model again")
    try:
        keep, new = method(pruner).prune(weight if aim is None else aim, statistic, sparsity)
    except PlanError as error:
        raise PlanError(f"{weights.folder}: {name}: {error.message}", hint="choose a pattern that fits") from None
    if weights.input_first(name):
        keep, new = keep.T, None if new is None else new.T
    if new is not None:
        new = new.to(stored.dtype)
        new = torch.where(new.isfinite(), new, stored * keep).contiguous().cpu()
    return Pruned(name, keep.contiguous().cpu(), new)


def as_integers(pruned: Pruned, weights: DenseWeights, gram: Tensor, bits: Bits) -> Pruned:
    """Quantise what became of a weight, which is stored [d_out, d_in], by the Gram matrix of its inputs.

    Where the pruner left kept weights alone, they are moved so as to undo also what the others did.
    """
    given = weights.tensor(pruned.name) if pruned.weight is None else pruned.weight
    levels, scales = quantise(given.to(gram.device), gram, bits, pruned.keep.to(gram.device))
    quantised = Quantised(levels.cpu(), scales.cpu())
    return replace(pruned, weight=quantised.weight, quantised=quantised)


def prune_block(
    walk: BlockWalk | None,
    block: Block,
    weights: DenseWeights,
    pruner: Pruner,
    sparsity: Sparsity,
    device: torch.device,
    bits: Bits | None = None,
) -> Iterator[Pruned]:
    """Yield the prunable weights of the walk's current block, pruned by the statistics of what comes in.

    With `bits` they are then quantised, by Gram matrices whatever the pruner reads. The walk does not advance; without
    `bits`, a pruner without a statistic needs none. Parts that few tokens reached are named in a
    warning: without any token all pruners rank by magnitude. Raises what `prune_weight` raises.
    """
    statistics: Mapping[str, Tensor] = {}
    reads = method(pruner).STATISTIC
    if walk is not None:
        match reads if bits is None else "grams":
            case "energies":
                statistics = walk.energies()
            case "grams":
                statistics = walk.grams()
        if statistics:
            _warn_of_few_tokens(walk.tokens)
    for name in block.prunable:
        statistic = statistics.get(name)
        if statistic is None or bits is None:
            yield prune_weight(weights, name, statistic, pruner, sparsity, device)
        else:
            read = statistic.diagonal() if reads == "energies" else statistic
            pruned = prune_weight(weights, name, read, pruner, sparsity, device)
            yield as_integers(pruned, weights, statistic, bits)


def prune_blocks(
    weights: DenseWeights,
    sequences: Tensor | Sequence[Tensor],
    *,
    pruner: Pruner,
    sparsity: Callable[[Block], Sparsity | None],
    device: torch.device,
    progress: Callable[[int, int], None],
    bits: Bits | None = None,
) -> Iterator[Pruned]:
    """Yield each prunable weight, pruned, in the model's order. A block without a `sparsity` stays dense.

    A block's statistics come from the dense block on the outputs of the already pruned blocks before it. `sequences`
    is int64 [samples, L] or a list of int64 [L_i]; a pruner without a statistic does not look at it, and runs no model.
    With `bits` kept weights are quantised too, for which every pruner looks at sequences.
    `progress` is called with (blocks done, blocks). Raises what `prune_weight` raises, and ConfigError where sequences
    are longer than the model's positions.
    """
    walk = BlockWalk(weights, sequences, device=device) if bits or method(pruner).STATISTIC else None
    for block in weights.blocks if walk is None else walk:
        changed = {}
        if (of_block := sparsity(block)) is not None:
            for pruned in prune_block(walk, block, weights, pruner, of_block, device, bits):
                changed[pruned.name] = pruned.changed
                yield pruned
        progress(block.index + 1, len(weights.blocks))
        if walk is not None and block is not weights.blocks[-1]:
            walk.advance(changed)


def _warn_of_few_tokens(tokens: Mapping[str, int]) -> None:
    usual = max(tokens.values())
    few = {_part(name): count for name, count in tokens.items() if count < min(FEW_TOKENS, usual)}
    if few:
        listed = ", ".join(f"{part} ({count})" for part, count in few.items())
        logger.warning("%d parts saw fewer than %d of %d calibration tokens: %s", len(few), FEW_TOKENS, usual, listed)


def _part(name: str) -> str:
    """Return the module that a weight's layer is of: an expert, or an attention; of a stack of experts, the matrix."""
    return name.rsplit(".", 2)[0] if name.endswith(".weight") else name


def with_weights(pruned: Iterable[Pruned], weights: DenseWeights) -> Iterator[Pruned]:
    """Yield the same tensors, each with a weight: the dense one, zeroed where not kept, where there is no new one."""
    for tensor in pruned:
        masked = weights.tensor(tensor.name).masked_fill(~tensor.keep, 0) if tensor.weight is None else tensor.weight
        yield Pruned(tensor.name, tensor.keep, masked)


def write_pruned(keep_masks: Path, weights: Path, pruned: Iterable[Pruned]) -> None:
    """Write keep masks and new weights, each as a safetensors file, one tensor in memory at a time.

    Each appears whole or not at all, `weights` first (over what an interrupted call may have left) and only where there
    are new weights. Raises OutputError where `keep_masks` exists (found before the first tensor is asked for), or a
    folder cannot be written.
    """
    _check_new(keep_masks)
    with ExitStack() as files:
        add_keep_mask = files.enter_context(_tensor_file(keep_masks))
        add_weight: Callable[[str, Tensor], None] | None = None
        for tensor in pruned:
            add_keep_mask(tensor.name, tensor.keep)
            if tensor.weight is not None:
                add_weight = add_weight or files.enter_context(_tensor_file(weights))
                add_weight(tensor.name, tensor.weight)


def write_keep_masks(path: Path, masks: Iterable[tuple[str, Tensor]]) -> None:
    """Write bool tensors as a safetensors file, one in memory at a time; `path` appears whole or not at all.

    Raises OutputError where `path` exists (found before the first mask is asked for), or its folder cannot be written.
    """
    _check_new(path)
    with _tensor_file(path) as add:
        for name, mask in masks:
            add(name, mask)


def _check_new(path: Path) -> None:
    if path.exists():
        raise OutputError(f"{path}: exists", hint="remove it or choose another name")


@contextmanager
def _tensor_file(path: Path) -> Iterator[Callable[[str, Tensor], None]]:
    """Yield what adds a tensor to a safetensors file; `path` appears whole at the end, or not at all."""
    entries: list[Entry] = []
    sizes: dict[str, int] = {}
    try:
        # The header, which comes first, is known last: the tensors wait in a file without a name.
        with tempfile.TemporaryFile(dir=path.parent) as waiting:

            def add(name: str, tensor: Tensor) -> None:
                entries.append((name, STORED_NAMES[tensor.dtype], tuple(tensor.shape)))
                sizes[name] = waiting.write(tensor.contiguous().view(torch.uint8).numpy().data)

            yield add
            waiting.seek(0)
            write_tensor_file(path, entries, lambda name: [waiting.read(sizes[name])], as_given=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", hint="choose another place") from error
