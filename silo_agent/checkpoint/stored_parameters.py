"""Which stored tensors make up each parameter of a model.

transformers' own conversion mapping says it: checkpoints differ from the model in names and prefixes, and hold a matrix
per expert where the model has one parameter for all.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from crypto.errors import ModelError
from silo_agent.checkpoint.mapped_tensors import TORCH_DTYPES
from silo_agent.checkpoint.tensor_files import StoredTensor

_DENSE: Final = ("F64", "F32", "BF16", "F16")  # float8 comes with scales

_WHOLE: Final = "the files must hold the whole model that config.json describes, unquantised"


def stored_parameters(folder: Path, model: Any, stored: Mapping[str, StoredTensor]) -> dict[str, tuple[str, ...]]:
    """Map each name of the model's state to what holds it in the files: one tensor, several, or all experts' matrices.

    Several are in the order in which their rows lie in the parameter. A tied weight may be stored once. Raises
    ModelError naming `folder` and the tensor that is missing, of another shape or quantised.
    """
    state = model.state_dict()
    named = _by_model_name(folder, model, state, stored)
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    held = [(name, tensor) for name, tensor in held if name in state]
    tied: dict[int, list[str]] = {}
    for name, tensor in held:
        tied.setdefault(id(tensor), []).append(name)
    stored_as = {}
    for name, tensor in held:
        parts = next((named[alias] for alias in (name, *tied[id(tensor)]) if alias in named), None)
        if parts is None:
            raise ModelError(f"{folder}: tensor {name} is missing", hint=_WHOLE)
        _check(folder, tensor, parts, stored)
        stored_as[name] = parts
    return stored_as


def _by_model_name(
    folder: Path, model: Any, state: dict[str, Tensor], stored: Mapping[str, StoredTensor]
) -> dict[str, tuple[str, ...]]:
    """Find what is stored for each name of `state`, by the rules of `from_pretrained`."""
    mapping = get_model_conversion_mapping(model)
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    named: dict[str, tuple[str, ...]] = {}
    merged: dict[str, dict[str, list[str]]] = {}  # by the model's name and the converter's pattern
    for stored_name in sorted(sorted(stored), key=dot_natural_key):
        name, pattern = rename_source_key(stored_name, renamings, converters, model.base_model_prefix, state)
        if name not in state:
            if stored_name in state:
                named[stored_name] = (stored_name,)
        elif pattern is None:
            named.setdefault(name, (stored_name,))
        else:
            merged.setdefault(name, {}).setdefault(pattern, []).append(stored_name)
    converter_of = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    for name, matrices in merged.items():
        converter = converter_of[next(iter(matrices))]
        named[name] = _in_order(folder, name, len(state[name]), converter, matrices)
    return named


def _in_order(
    folder: Path, name: str, experts: int, converter: WeightConverter, matrices: Mapping[str, list[str]]
) -> tuple[str, ...]:
    """Return the tensors, by the converter's pattern, in the order in which the parameter `name` holds them."""
    # Understood are tensors one below the other, experts' matrices stacked, and both: nothing else.
    operations = [(type(operation), getattr(operation, "dim", None)) for operation in converter.operations]
    if operations not in ([(Concatenate, 0)], [(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
        raise ModelError(
            f"{folder}: {next(iter(matrices.values()))[0]} and {name} are laid out differently",
            hint="this kind of model is not supported",
        )
    one = operations == [(Concatenate, 0)]
    for pattern in converter.source_patterns:
        count = len(matrices.get(pattern, ()))
        if count != (1 if one else experts):
            described = "one" if one else f"{experts} experts"
            raise ModelError(
                f"{folder}: {count} tensors {pattern} for {name}, config.json describes {described}", hint=_WHOLE
            )
    return tuple(chain(*zip(*(matrices[pattern] for pattern in converter.source_patterns), strict=True)))


def _check(folder: Path, tensor: Tensor, names: tuple[str, ...], stored: Mapping[str, StoredTensor]) -> None:
    """Check that the stored tensors are dense and make up `tensor`."""
    experts = len(names) > 1 and len(stored[names[0]].shape) < tensor.ndim
    matrices = len(names) // len(tensor) if experts else len(names)  # of one expert
    shape = tuple(tensor.shape[1:] if experts else tensor.shape)
    for start in range(0, len(names), matrices):
        group = names[start : start + matrices]
        whole = stored[group[0]].shape
        if len(names) > 1:
            whole = (sum(stored[name].shape[0] for name in group), *whole[1:])
        if whole != shape or any(stored[name].shape[1:] != shape[1:] for name in group):
            raise ModelError(
                f"{folder}: tensor {' above '.join(group)} has shape {list(whole)}, "
                f"config.json describes {list(shape)}",
                hint="config.json and the weights must be of the same model",
            )
    for name in names:
        if tensor.is_floating_point() and stored[name].dtype not in _DENSE:
            raise ModelError(
                f"{folder}: tensor {name} is stored as {TORCH_DTYPES[stored[name].dtype]}",
                hint="use the unquantised model in bfloat16, float16 or float32",
            )
