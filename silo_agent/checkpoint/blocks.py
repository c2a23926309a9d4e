"""The decoder blocks of a model, found by its structure, and the prunable weights in them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from crypto.errors import ModelError
from silo_agent.checkpoint.tensor_files import StoredTensor


@dataclass(frozen=True)
class Block:
    """One decoder layer: its module's name, and its prunable weights' names in the files, in module order.

    Prunable are the matrices of all linear layers (`nn.Linear`, transformers' `Conv1D`) and of all experts. What routes
    tokens to experts, or says how much of an expert's output counts, stays dense.
    """

    index: int
    prefix: str
    prunable: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a prunable weight is in the model: the parameter's name and which of its rows.

    For an expert's matrix the parameter is [experts, rows of one expert, columns]; rows count from its first expert.
    """

    parameter: str
    first: int
    last: int
    expert: int | None
    input_first: bool
    """Whether the weight is [d_in, d_out], as GPT-2's and some experts' are, and not [d_out, d_in]."""


_ROUTER: Final = re.compile(r"(?:.*\.)?\w*router\w*(?:\..*)?")
_GATE: Final = re.compile(r"(?:.*\.)?(?:gate|shared_expert_gate)(?:\..*)?")
"""What decides on experts is called, such as `mlp.router.linear`; `mlp.gate` is that in a block with experts only."""


def find_blocks(folder: Path, model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Find the decoder blocks, by name: the longest outermost list of modules that all have prunable weights.

    Models inside that have not the embedding of tokens (they read images or sound) do not count. Raises ModelError
    naming `folder` where there is no such list.
    """
    lists: dict[str, nn.ModuleList] = {}
    passed_over: list[str] = []
    embedding = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and all(inside is not embedding for inside in module.modules()):
            passed_over.append(name)
        if not isinstance(module, nn.ModuleList) or not len(module) or any(map(_is_linear, module)):
            continue
        nested = any(
            name.startswith(f"{outer}.") for outer in (*lists, *passed_over)
        )  # experts may be more than blocks
        if not nested and all(any(prunable_parameters(item)) for item in module):
            lists[name] = module
    if not lists:
        raise ModelError(
            f"{folder}: no decoder blocks with linear layers found", hint="this kind of model is not supported"
        )
    longest = max(lists, key=lambda name: len(lists[name]))
    return [(f"{longest}.{index}", module) for index, module in enumerate(lists[longest])]


def prunable_parameters(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Find the prunable parameters, in module order, each with its owner: linear layers' weights, all experts' in one.

    Linear layers that are called a router, or a gate in a block with experts, are none.
    """
    routed = any("expert" in name for name, _ in block.named_modules())
    for name, module in block.named_modules():
        if _is_linear(module):
            if not (_ROUTER.fullmatch(name) or (routed and _GATE.fullmatch(name))):
                yield full_name(name, "weight"), module
        else:
            for inside, parameter in module.named_parameters(recurse=False):
                if is_of_experts(module, parameter):
                    yield full_name(name, inside), module


def is_of_experts(owner: nn.Module, parameter: Tensor) -> bool:
    """Return whether a parameter is a stack of experts' matrices, as transformers' classes of experts hold them."""
    return parameter.ndim == 3 and "Expert" in type(owner).__name__


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def places(
    folder: Path,
    prefix: str,
    block: nn.Module,
    width: int,
    stored_as: Mapping[str, tuple[str, ...]],
    stored: Mapping[str, StoredTensor],
) -> dict[str, Place]:
    """Return where each of a block's prunable weights belongs, by its stored name, in module order.

    `stored_as` is what `stored_parameters` returned, experts' matrices apart; `width` is that of the hidden states.
    Raises ModelError naming `folder` where experts' matrices lie one below the other in a matrix.
    """
    belongs = {}
    for name, module in block.named_modules():
        for inside, parameter in () if _is_linear(module) else module.named_parameters(recurse=False):
            if parameter.ndim == 2 and "Expert" in type(module).__name__ and "bias" not in inside:
                raise ModelError(
                    f"{folder}: {prefix}.{full_name(name, inside)} is one matrix for all experts",
                    hint="this kind of model is not supported",
                )
    for inside, owner in prunable_parameters(block):
        parameter = f"{prefix}.{inside}"
        names, shape = stored_as[parameter], block.get_parameter(inside).shape
        input_first = _experts_input_first(owner, width) if len(shape) == 3 else isinstance(owner, Conv1D)
        for name, last in zip(names, accumulate(stored[name].shape[0] for name in names), strict=True):
            first = last - stored[name].shape[0]
            expert = first // shape[1] if len(shape) == 3 else None
            belongs[name] = Place(parameter, first, last, expert, input_first)
    return belongs


def _experts_input_first(owner: nn.Module, width: int) -> bool:
    """Return whether experts' matrices are [d_in, d_out]: what transformers says, or else the shape of the first of
    several, which multiplies the hidden states."""
    first, *more = (parameter.shape for parameter in owner.parameters(recurse=False) if parameter.ndim == 3)
    return bool(getattr(owner, "is_transposed", more and first[1] == width != first[2]))


def full_name(prefix: str, name: str) -> str:
    """Return what the model calls `name` of its submodule `prefix`; "" is the model."""
    return f"{prefix}.{name}" if prefix else name
