"""The dense model's folder, opened lazily: config, tokenizer, blocks and tensors. Never the whole model in memory.

Tensors are views of the memory-mapped safetensors files. Whatever is wrong with the folder is a ModelError that names
the file and what to change; the model's own code is never run from the folder (`trust_remote_code` stays off).
"""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from crypto.errors import ModelError

_STORED = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
)  # what counts as dense; float8 comes with scales

# What transformers raises on a config or tokenizer file that it cannot use: there is no common class.
_UNUSABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, ImportError,
    StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One decoder layer: its prefix in parameter names, and its prunable weights' full names in module order."""

    index: int
    prefix: str
    prunable: tuple[str, ...]


class DenseWeights:
    """A causal language model's folder. `files` are its safetensors files, `names` all stored tensors, both sorted."""

    def __init__(self, folder: Path, config: Any, files: dict[str, Path]) -> None:
        self.folder = folder
        self.config = config
        self.files = tuple(sorted(set(files.values())))
        self.names = tuple(sorted(files))
        opened = {file: _open(file) for file in self.files}
        present = {file: frozenset(handle.keys()) for file, handle in opened.items()}
        for name, file in files.items():
            if name not in present[file]:
                raise ModelError(
                    f"{file}: tensor {name} is missing", hint="the index names it here: copy the file again"
                )
        self._file_of = {name: opened[file] for name, file in files.items()}
        model = self.skeleton()
        self._stored_as = self._match(model)
        self._embedding_rows = int(model.get_input_embeddings().weight.shape[0])
        self.blocks = tuple(_find_blocks(folder, model))
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
        """The stored tensor, a view of the mapped file: never write to it."""
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def shape(self, name: str) -> torch.Size:
        """The stored tensor's shape."""
        return self.tensor(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The stored tensor's dtype."""
        return self.tensor(name).dtype

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
                model = build(copy.deepcopy(self.config), trust_remote_code=False, dtype=torch.float32)
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
        loaded: dict[str, Tensor] = {}
        state: dict[str, Tensor] = {}
        for key in module.state_dict():
            stored = self._stored_as[_join(prefix, key)]
            if stored not in loaded:  # tied weights share one copy
                tensor = self.tensor(stored)
                loaded[stored] = tensor.to(device, dtype if tensor.is_floating_point() else None)
            state[key] = loaded[stored]
        module.load_state_dict(state, assign=True)
        module.to(device)  # the computed buffers, which keep their dtype

    def release(self, module: nn.Module) -> None:
        """Put a loaded submodule's tensors back on the meta device."""
        module.load_state_dict({key: value.to("meta") for key, value in module.state_dict().items()}, assign=True)

    def _match(self, model: nn.Module) -> dict[str, str]:
        """Map each name of the model's state to the stored tensor that holds it; a tied weight may be stored once."""
        state = model.state_dict().keys()
        held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        held = [(name, tensor) for name, tensor in held if name in state]
        same: dict[int, list[str]] = {}
        for name, tensor in held:
            same.setdefault(id(tensor), []).append(name)
        stored_as = {}
        for name, tensor in held:
            stored = next((each for each in (name, *same[id(tensor)]) if each in self._file_of), None)
            if stored is None:
                raise ModelError(
                    f"{self.folder}: tensor {name} is missing",
                    hint="the files must hold the whole model that config.json describes, unquantised",
                )
            if self.shape(stored) != tensor.shape:
                raise ModelError(
                    f"{self.folder}: tensor {stored} has shape {list(self.shape(stored))}, "
                    f"config.json describes {list(tensor.shape)}",
                    hint="config.json and the weights must be of the same model",
                )
            if tensor.is_floating_point() and self.dtype(stored) not in _STORED:
                raise ModelError(
                    f"{self.folder}: tensor {stored} is stored as {self.dtype(stored)}",
                    hint="use the unquantised model in bfloat16, float16 or float32",
                )
            stored_as[name] = stored
        return stored_as


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
    if not any(str(name).endswith("ForCausalLM") for name in architectures):
        raise ModelError(
            f"{file}: architectures {architectures} is not a causal language model",
            hint="only models whose architecture ends in ForCausalLM can be pruned",
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{file}: the model is quantised", hint="prune the unquantised model")
    return config


def _find_tensors(folder: Path) -> dict[str, Path]:
    """Map each stored tensor's name to its file, which exists. As in transformers, a single file beats an index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return dict.fromkeys(_open(single).keys(), single)
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
    for name in set(map(str, weight_map.values())):
        if Path(name).name != name:
            raise ModelError(f"{index}: {name} is not a file of this folder", hint="copy the file again")
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: no such file, but {index.name} names it", hint="copy the missing file")
    return {name: folder / str(file) for name, file in weight_map.items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not readable as JSON: {_line(error)}", hint="copy the file again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file}: not a JSON object", hint="copy the file again")
    return content


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file}: damaged or not safetensors: {_line(error)}", hint="copy or download the file again"
        ) from error


def _find_blocks(folder: Path, model: nn.Module) -> Iterator[Block]:
    """Find the decoder blocks: the longest outermost list of modules of one class that all contain linear layers."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(item) for item in module}) != 1:
            continue
        nested = any(name.startswith(f"{outer}.") for outer in lists)  # a list of experts may be longer
        if not nested and all(_linear_names(item) for item in module):
            lists[name] = module
    if not lists:
        raise ModelError(
            f"{folder}: no decoder blocks with linear layers found", hint="this kind of model is not supported"
        )
    longest = max(lists, key=lambda name: len(lists[name]))
    for index, module in enumerate(lists[longest]):
        prefix = f"{longest}.{index}"
        yield Block(index, prefix, tuple(f"{prefix}.{name}.weight" for name in _linear_names(module)))


def _linear_names(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
