"""The dense model's folder, opened lazily: config, tokenizer, blocks and tensors. Never the whole model in memory.

Tensors are memory-mapped, each by itself: what is no longer held no longer counts as the process's memory. Which stored
tensor is what in the model, transformers' own conversion mapping says: checkpoints differ from the model in names and
prefixes, and hold a matrix per expert where the model has one parameter for all. Whatever is wrong with the folder is a
ModelError that names the file and what to change; the model's own code is never run from the folder
(`trust_remote_code` stays off).
"""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Final, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.pytorch_utils import Conv1D

from crypto.errors import ModelError
from silo_agent.model.mapped_tensors import TORCH_DTYPES, mapped_tensor
from silo_agent.model.tensor_files import StoredTensor, read_tensor_file

_DENSE: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # float8 comes with scales

# What transformers raises on a config or tokenizer file that it cannot use: there is no common class.
_UNUSABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, ImportError,
    StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One decoder layer: its module's name, and its prunable weights' names in the files, in module order.

    Prunable are the matrices of all linear layers (`nn.Linear`, transformers' `Conv1D`) and of all experts. What routes
    tokens to experts and is no linear layer but a parameter of its own stays dense.
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


class DenseWeights:
    """A causal language model's folder. `files` are its safetensors files, `names` all stored tensors, both sorted."""

    def __init__(self, folder: Path, config: Any, stored: dict[str, StoredTensor]) -> None:
        self.folder = folder
        self.config = config
        self.files = tuple(sorted({each.file for each in stored.values()}))
        self.names = tuple(sorted(stored))
        self._stored = stored
        model = self.skeleton()
        self._stored_as = self._match(model)
        self._embedding_rows = int(model.get_input_embeddings().weight.shape[0])
        self._places: dict[str, Place] = {}
        self._input_first: set[str] = set()
        self.blocks = tuple(
            Block(index, prefix, tuple(self._place(prefix, module)))
            for index, (prefix, module) in enumerate(_find_blocks(folder, model))
        )
        self.prunable = tuple(name for block in self.blocks for name in block.prunable)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open and check everything but the tokenizer. ModelError: see the module; no tensor's values are read."""
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder", hint="name a folder with config.json and model.safetensors")
        return cls(folder, _read_config(folder), _find_tensors(folder))

    @cached_property
    def tokenizer(self) -> Any:
        """The folder's tokenizer. ModelError: missing, damaged, or with more tokens than the embedding has rows."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except _UNUSABLE as error:
            raise ModelError(
                f"{self.folder}: no usable tokenizer: {_line(error)}", hint="copy the model's tokenizer files here"
            ) from error
        if len(tokenizer) > self._embedding_rows:
            raise ModelError(
                f"{self.folder}: the tokenizer has {len(tokenizer)} tokens, the embedding {self._embedding_rows} rows",
                hint="copy the tokenizer that belongs to this model",
            )
        return tokenizer

    def tensor(self, name: str) -> Tensor:
        """The stored tensor, mapped from the file privately: what is written to it stays in memory."""
        return mapped_tensor(self._stored[name])

    def shape(self, name: str) -> torch.Size:
        """The stored tensor's shape."""
        return torch.Size(self._stored[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """The stored tensor's dtype."""
        return TORCH_DTYPES[self._stored[name].dtype]

    def input_first(self, name: str) -> bool:
        """Whether a prunable weight is stored as [d_in, d_out], as GPT-2's are, and not as [d_out, d_in]."""
        return name in self._input_first

    def place(self, name: str) -> Place:
        """Where a prunable weight is in the model."""
        return self._places[name]

    def digest(self) -> dict[str, bytes]:
        """SHA-256 of each stored tensor, by name.

        Hashed: the name in UTF-8, NUL, the dtype as torch prints it without `torch.` (`bfloat16`), NUL, the number of
        dimensions and each dimension as 8-byte little-endian integers, then the elements row by row, little-endian,
        as they lie in the file.
        """
        digests = {}
        for name in self.names:
            tensor = self.tensor(name)
            header = f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0".encode()
            sizes = b"".join(size.to_bytes(8, "little") for size in (tensor.ndim, *tensor.shape))
            state = hashlib.sha256(header + sizes)
            state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
            digests[name] = state.digest()
        return digests

    def skeleton(self) -> Any:
        """Return the causal language model in eval mode, parameters on the meta device, computed buffers on the CPU."""
        build: Any = AutoModelForCausalLM.from_config
        try:
            with torch.device("meta"):
                # `dtype` is that of the computed buffers; it is written into the config, hence the copy
                model = build(
                    copy.deepcopy(self.config),
                    trust_remote_code=False,
                    dtype=torch.float32,
                    experts_implementation="eager",  # a matrix product per expert, so that each one's inputs are seen
                )
        except _UNUSABLE as error:
            raise ModelError(
                f"{self.folder}/config.json: no causal language model can be built: {_line(error)}",
                hint="check the file against the model's source",
            ) from error
        model.eval().requires_grad_(False)
        # Buffers that no checkpoint holds (rotary frequencies) are computed as transformers computes them after its
        # own load on the meta device: its `_init_weights` fills the owner's buffers; parameters stay on meta.
        stored = model.state_dict().keys()
        for owner_name, owner in model.named_modules():
            computed = [name for name, _ in owner.named_buffers(recurse=False) if _join(owner_name, name) not in stored]
            for name in computed:
                setattr(owner, name, torch.zeros_like(owner.get_buffer(name), device="cpu"))
            if computed:
                with torch.no_grad():
                    model._init_weights(owner)
        return model

    def load(self, module: nn.Module, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
        """Give a skeleton's submodule, named `prefix` ("" is the model), its stored tensors, floats in `dtype`."""
        loaded: dict[tuple[str, ...], Tensor] = {}
        state: dict[str, Tensor] = {}
        for key, empty in module.state_dict().items():
            names = self._stored_as[_join(prefix, key)]
            if names not in loaded:  # tied weights share one copy
                kind = dtype if empty.is_floating_point() else None
                if self.shape(names[0]) == empty.shape:
                    loaded[names] = self.tensor(names[0]).to(device, kind)
                else:
                    loaded[names] = torch.empty_like(empty, dtype=kind, device=device)
                    sizes = [self.shape(name)[0] for name in names]
                    for rows, name in zip(loaded[names].flatten(0, 1).split_with_sizes(sizes), names, strict=True):
                        rows.copy_(self.tensor(name))
            state[key] = loaded[names]
        module.load_state_dict(state, assign=True)
        module.to(device)  # the computed buffers, which keep their dtype

    def loaded(self, module: nn.Module, prefix: str, name: str) -> Tensor:
        """The prunable weight `name` in the loaded block `module`: a view, in the stored shape."""
        place = self._places[name]
        parameter = module.get_parameter(place.parameter.removeprefix(f"{prefix}.")).data
        return parameter if place.expert is None else parameter.flatten(0, 1)[place.first : place.last]

    def release(self, module: nn.Module) -> None:
        """Put a loaded submodule's tensors back on the meta device."""
        module.load_state_dict({key: value.to("meta") for key, value in module.state_dict().items()}, assign=True)

    def _match(self, model: Any) -> dict[str, tuple[str, ...]]:
        """Map each name of the model's state to what holds it in the files: one tensor, or all experts' matrices.

        Those are in the order in which their rows lie in the parameter. A tied weight may be stored once.
        """
        state = model.state_dict()
        found = self._find_stored(model, state)
        held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        held = [(name, tensor) for name, tensor in held if name in state]
        same: dict[int, list[str]] = {}
        for name, tensor in held:
            same.setdefault(id(tensor), []).append(name)
        stored_as = {}
        for name, tensor in held:
            names = next((found[each] for each in (name, *same[id(tensor)]) if each in found), None)
            if names is None:
                raise ModelError(
                    f"{self.folder}: tensor {name} is missing",
                    hint="the files must hold the whole model that config.json describes, unquantised",
                )
            self._check(tensor, names)
            stored_as[name] = names
        return stored_as

    def _find_stored(self, model: Any, state: dict[str, Tensor]) -> dict[str, tuple[str, ...]]:
        """Find what is stored for each name of `state`, by the rules of `from_pretrained`."""
        mapping = get_model_conversion_mapping(model)
        renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
        converters = [each for each in mapping if isinstance(each, WeightConverter)]
        found: dict[str, tuple[str, ...]] = {}
        merged: dict[str, dict[str, list[str]]] = {}  # by the model's name and the converter's pattern
        for stored in sorted(self.names, key=dot_natural_key):
            name, pattern = rename_source_key(stored, renamings, converters, model.base_model_prefix, state)
            if name not in state:
                if stored in state:
                    found[stored] = (stored,)
            elif pattern is None:
                found.setdefault(name, (stored,))
            else:
                merged.setdefault(name, {}).setdefault(pattern, []).append(stored)
        converter_of = {pattern: each for each in converters for pattern in each.source_patterns}
        for name, matrices in merged.items():
            converter = converter_of[next(iter(matrices))]
            # Understood are an expert's matrices one below the other, and then the experts stacked: nothing else.
            operations = [(type(each), getattr(each, "dim", None)) for each in converter.operations]
            if operations not in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
                raise ModelError(
                    f"{self.folder}: {matrices[next(iter(matrices))][0]} and {name} are laid out differently",
                    hint="this kind of model is not supported",
                )
            for pattern in converter.source_patterns:
                if len(matrices.get(pattern, ())) != len(state[name]):
                    raise ModelError(
                        f"{self.folder}: {len(matrices.get(pattern, ()))} tensors {pattern} for {name}, "
                        f"config.json describes {len(state[name])} experts",
                        hint="the files must hold the whole model that config.json describes, unquantised",
                    )
            found[name] = tuple(chain(*zip(*(matrices[each] for each in converter.source_patterns), strict=True)))
        return found

    def _check(self, tensor: Tensor, names: tuple[str, ...]) -> None:
        """Check that the stored tensors are dense and make up `tensor`. ModelError: they do not."""
        experts = len(names) > 1
        matrices = len(names) // len(tensor) if experts else 1  # of one expert
        shape = tensor.shape[1:] if experts else tensor.shape
        for start in range(0, len(names), matrices):
            group = names[start : start + matrices]
            rows = sum(self.shape(name)[0] for name in group) if experts else None
            whole = torch.Size((rows, *self.shape(group[0])[1:])) if rows is not None else self.shape(group[0])
            if whole != shape or any(self.shape(name)[1:] != shape[1:] for name in group):
                raise ModelError(
                    f"{self.folder}: tensor {' above '.join(group)} has shape {list(whole)}, "
                    f"config.json describes {list(shape)}",
                    hint="config.json and the weights must be of the same model",
                )
        for name in names:
            if tensor.is_floating_point() and self.dtype(name) not in _DENSE:
                raise ModelError(
                    f"{self.folder}: tensor {name} is stored as {self.dtype(name)}",
                    hint="use the unquantised model in bfloat16, float16 or float32",
                )

    def _place(self, prefix: str, block: nn.Module) -> Iterator[str]:
        """Yield the stored names of a block's prunable weights, and note where each belongs."""
        for inside, owner in _prunable(block):
            parameter = f"{prefix}.{inside}"
            names, shape = self._stored_as[parameter], block.get_parameter(inside).shape
            if len(shape) == 3 and len(names) == 1:
                raise ModelError(
                    f"{self.folder}: {names[0]} is {list(shape)}, the experts' weights in one tensor",
                    hint="only checkpoints with a matrix per expert can be pruned",
                )
            if isinstance(owner, Conv1D):
                self._input_first.update(names)
            for name, last in zip(names, accumulate(self.shape(name)[0] for name in names), strict=True):
                first = last - self.shape(name)[0]
                self._places[name] = Place(parameter, first, last, first // shape[1] if len(shape) == 3 else None)
            yield from names


def _read_config(folder: Path) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{file}: no such file", hint="name a folder that save_pretrained wrote")
    _read_json(file)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _UNUSABLE as error:
        raise ModelError(f"{file}: {_line(error)}", hint="check the file against the model's source") from error
    architectures = config.architectures if isinstance(config.architectures, list) else []
    if not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise ModelError(
            f"{file}: architectures {architectures} is not a causal language model",
            hint="only models whose architecture ends in ForCausalLM or LMHeadModel can be pruned",
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{file}: the model is quantised", hint="prune the unquantised model")
    return config


def _find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Find each stored tensor, by name. As in transformers, a single file beats an index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return dict(read_tensor_file(single).tensors)
    if not index.is_file():
        if any(folder.glob("*.bin")):
            raise ModelError(
                f"{folder}: has only PyTorch .bin files, which can run code when they are read",
                hint="load the model with transformers and save_pretrained it as safetensors",
            )
        raise ModelError(f"{folder}: no model.safetensors", hint="name a folder that save_pretrained wrote")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: no weight_map", hint="copy the file again")
    headers = {}
    for name in set(map(str, weight_map.values())):
        if Path(name).name != name:
            raise ModelError(f"{index}: {name} is not a file of this folder", hint="copy the file again")
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: no such file, but {index.name} names it", hint="copy the missing file")
        headers[name] = read_tensor_file(folder / name).tensors
    for tensor, name in weight_map.items():
        if tensor not in headers[str(name)]:
            raise ModelError(
                f"{folder / str(name)}: tensor {tensor} is missing",
                hint="the index names it here: copy the file again",
            )
    return {tensor: headers[str(name)][tensor] for tensor, name in weight_map.items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not readable as JSON: {_line(error)}", hint="copy the file again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file}: not a JSON object", hint="copy the file again")
    return content


def _find_blocks(folder: Path, model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Find the decoder blocks, by name: the longest outermost list of modules of one class with prunable weights."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(item) for item in module}) != 1:
            continue
        nested = any(name.startswith(f"{outer}.") for outer in lists)  # a list of experts may be longer
        if not nested and all(any(_prunable(item)) for item in module):
            lists[name] = module
    if not lists:
        raise ModelError(
            f"{folder}: no decoder blocks with linear layers found", hint="this kind of model is not supported"
        )
    longest = max(lists, key=lambda name: len(lists[name]))
    return [(f"{longest}.{index}", module) for index, module in enumerate(lists[longest])]


def _prunable(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Find the prunable parameters, in module order, each with its owner: linear layers' weights, all experts' in one.

    A parameter of three dimensions that is no convolution of torch's own is one of experts.
    """
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield _join(name, "weight"), module
        elif not type(module).__module__.startswith("torch.nn."):
            for inside, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3:
                    yield _join(name, inside), module


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
