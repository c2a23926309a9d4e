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
from silo_agent.model.tensor_files import StoredTensor


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

    For an expert's matrix the parameter is [experts, rows of one expert, d_in]; the rows count from its first expert.
    """

    parameter: str
    first: int
    last: int
    expert: int | None
    input_first: bool
    """Whether the weight is [d_in, d_out], as GPT-2's are, and not [d_out, d_in]."""


_ROUTER: Final = re.compile(r"(?:.*[._])?(?:router|gate)(?:\..*)?")
"""The linear layers of a block with experts that decide on them, by name: `mlp.gate`, `mlp.router.linear`."""


def find_blocks(folder: Path, model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Find the decoder blocks, by name: the longest outermost list of modules that all have prunable weights.

    Where transformers knows which part of a model writes text, only that part counts. Raises ModelError naming `folder`
    where there is no such list.
    """
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    inside = next(name for name, module in model.named_modules() if module is decoder)
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or not f"{name}.".startswith(f"{inside}." if inside else ""):
            continue
        nested = any(name.startswith(f"{outer}.") for outer in lists)  # a list of experts may be longer
        if not nested and not any(map(_is_linear, module)) and all(any(prunable_parameters(item)) for item in module):
            lists[name] = module
    if not any(lists.values()):
        raise ModelError(
            f"{folder}: no decoder blocks with linear layers found", hint="this kind of model is not supported"
        )
    longest = max(lists, key=lambda name: len(lists[name]))
    return [(f"{longest}.{index}", module) for index, module in enumerate(lists[longest])]


def prunable_parameters(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Find the prunable parameters, in module order, each with its owner: linear layers' weights, all experts' in one.

    In a block with experts, linear layers that are called a router or gate are none.
    """
    routed = any("expert" in name for name, _ in block.named_modules())
    for name, module in block.named_modules():
        if _is_linear(module):
            if not (routed and _ROUTER.fullmatch(name)):
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
    stored_as: Mapping[str, tuple[str, ...]],
    stored: Mapping[str, StoredTensor],
) -> dict[str, Place]:
    """Return where each of a block's prunable weights belongs, by its stored name, in module order.

    `stored_as` is what `stored_parameters` returned. Raises ModelError naming `folder` where the file has all experts'
    weights in one tensor.
    """
    belongs = {}
    for inside, owner in prunable_parameters(block):
        parameter = f"{prefix}.{inside}"
        names, shape = stored_as[parameter], block.get_parameter(inside).shape
        if len(shape) == 3 and len(names) == 1:
            raise ModelError(
                f"{folder}: {names[0]} is {list(shape)}, the experts' weights in one tensor",
                hint="only checkpoints with a matrix per expert can be pruned",
            )
        for name, last in zip(names, accumulate(stored[name].shape[0] for name in names), strict=True):
            first = last - stored[name].shape[0]
            expert = first // shape[1] if len(shape) == 3 else None
            belongs[name] = Place(parameter, first, last, expert, isinstance(owner, Conv1D))
    return belongs


def full_name(prefix: str, name: str) -> str:
    """Return what the model calls `name` of its submodule `prefix`; "" is the model."""
    return f"{prefix}.{name}" if prefix else name
