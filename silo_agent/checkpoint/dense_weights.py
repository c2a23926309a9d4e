"""The dense model's folder, opened lazily: config, tokenizer, blocks and tensors. Never the whole model in memory.

Whatever is wrong with the folder is a ModelError that names the file and what to change; the model's own code is never
run from the folder (`trust_remote_code` stays off). Config and tokenizer are read from copies of the files whose
digests a plan lists, so that no other file has a say in what the model computes.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from crypto.errors import ModelError
from silo_agent.checkpoint.blocks import Block, Place, find_blocks, full_name, places, prunable_parameters
from silo_agent.checkpoint.computed_buffers import compute_buffers
from silo_agent.checkpoint.expert_stacks import expert_stacks
from silo_agent.checkpoint.mapped_tensors import TORCH_DTYPES, mapped_tensor
from silo_agent.checkpoint.model_folder import copied_files, file_content, file_digests
from silo_agent.checkpoint.stored_parameters import stored_parameters
from silo_agent.checkpoint.tensor_files import StoredTensor, read_tensor_file

# What transformers raises on a config or tokenizer file that it cannot use: there is no common class.
_UNUSABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, ImportError,
    StrictDataclassError,
)  # fmt: skip


class DenseWeights:
    """A causal language model's folder. `files` are its safetensors files, `stored_names` the tensors in them, `names`
    the same, but for each of `stacks` its experts' matrices; all sorted. `file_digests` has SHA-256 of every other file
    that is read.
    """

    def __init__(
        self, folder: Path, file_digests: Mapping[str, bytes], config: Any, stored: dict[str, StoredTensor]
    ) -> None:
        self.folder = folder
        self.file_digests = file_digests
        self.config = config
        self.files = tuple(sorted({tensor.file for tensor in stored.values()}))
        self.stored_names = tuple(sorted(stored))
        model = self.skeleton()
        self._stored_as = stored_parameters(folder, model, stored)
        blocks = find_blocks(folder, model)
        parameters = [full_name(prefix, name) for prefix, block in blocks for name, _ in prunable_parameters(block)]
        stacks = dict(expert_stacks(parameters, self._stored_as, stored))
        self.stacks = {name: tuple(matrices) for name, matrices in stacks.items()}
        self._stored_as |= {
            parameter: self.stacks[names[0]] for parameter, names in self._stored_as.items() if names[0] in stacks
        }
        self._stored = stored.copy()
        for matrices in stacks.values():
            self._stored |= matrices
        self.names = tuple(sorted(self._stored.keys() - stacks.keys()))
        rows, width = model.get_input_embeddings().weight.shape
        self._embedding_rows = int(rows)
        in_blocks = {
            prefix: places(folder, prefix, block, width, self._stored_as, self._stored) for prefix, block in blocks
        }
        _check_apart(folder, in_blocks)
        self.blocks = tuple(
            Block(index, prefix, tuple(names)) for index, (prefix, names) in enumerate(in_blocks.items())
        )
        self._places = {name: place for of_block in in_blocks.values() for name, place in of_block.items()}
        self.prunable = tuple(name for block in self.blocks for name in block.prunable)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open and check everything but the tokenizer; no tensor's values are read. Raises ModelError."""
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder", hint="name a folder with config.json and model.safetensors")
        digests = file_digests(folder)
        return cls(folder, digests, _read_config(folder, digests), _find_tensors(folder))

    @cached_property
    def tokenizer(self) -> Any:
        """The folder's tokenizer. Raises ModelError where it is missing, damaged, or has a token without a row in the
        embedding.
        """
        try:
            with copied_files(self.folder, self.file_digests) as files:
                tokenizer = AutoTokenizer.from_pretrained(files, local_files_only=True, trust_remote_code=False)
        except _UNUSABLE as error:
            raise ModelError(
                f"{self.folder}: no usable tokenizer: {_line(error)}", hint="copy the model's tokenizer files here"
            ) from error
        tokens = 1 + max(tokenizer.get_vocab().values(), default=0)  # an id without a row fails only where text has it
        if tokens > self._embedding_rows:
            raise ModelError(
                f"{self.folder}: the tokenizer has {tokens} tokens, the embedding {self._embedding_rows} rows",
                hint="copy the tokenizer that belongs to this model",
            )
        return tokenizer

    def file(self, name: str) -> Path:
        """Return the safetensors file that a stored tensor lies in."""
        return self._stored[name].file

    def file_content(self, name: str) -> bytes:
        """Return the content of a file of `file_digests`. Raises ModelError where it was changed since."""
        return file_content(self.folder / name, self.file_digests[name])

    def tensor(self, name: str) -> Tensor:
        """Return the stored tensor, mapped from the file privately: what is written to it stays in memory."""
        return mapped_tensor(self._stored[name])

    def shape(self, name: str) -> torch.Size:
        """Return the stored tensor's shape."""
        return torch.Size(self._stored[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """Return the stored tensor's dtype."""
        return TORCH_DTYPES[self._stored[name].dtype]

    def input_first(self, name: str) -> bool:
        """Return whether a prunable weight is stored as [d_in, d_out], as GPT-2's are, and not as [d_out, d_in]."""
        return self._places[name].input_first

    def place(self, name: str) -> Place:
        """Return where a prunable weight is in the model."""
        return self._places[name]

    def digest(self) -> dict[str, bytes]:
        """Return SHA-256 of each stored tensor, by name.

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
        compute_buffers(self.folder, model)
        return model

    def load(self, module: nn.Module, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
        """Give a skeleton's submodule, named `prefix` ("" is the model), its stored tensors, floats in `dtype`."""
        loaded: dict[tuple[str, ...], Tensor] = {}
        state: dict[str, Tensor] = {}
        for key, empty in module.state_dict().items():
            names = self._stored_as[full_name(prefix, key)]
            if names not in loaded:  # tied weights share one copy
                kind = dtype if empty.is_floating_point() else None
                if self.shape(names[0]) == empty.shape:
                    loaded[names] = self.tensor(names[0]).to(device, kind)
                else:
                    loaded[names] = torch.empty_like(empty, dtype=kind, device=device)
                    shapes = [self.shape(name) for name in names]
                    whole = loaded[names].flatten(0, empty.ndim - len(shapes[0]))
                    for rows, name in zip(whole.split_with_sizes([of[0] for of in shapes]), names, strict=True):
                        rows.copy_(self.tensor(name))
            state[key] = loaded[names]
        module.load_state_dict(state, assign=True)
        module.to(device)  # the computed buffers, which keep their dtype

    def loaded(self, module: nn.Module, prefix: str, name: str) -> Tensor:
        """Return the prunable weight `name` in the loaded block `module`: a view, in the stored shape."""
        place = self._places[name]
        parameter = module.get_parameter(place.parameter.removeprefix(f"{prefix}.")).data
        rows = parameter if place.expert is None else parameter.flatten(0, 1)
        return rows[place.first : place.last]

    def release(self, module: nn.Module) -> None:
        """Put a loaded submodule's tensors back on the meta device."""
        module.load_state_dict({key: value.to("meta") for key, value in module.state_dict().items()}, assign=True)


def _read_config(folder: Path, digests: Mapping[str, bytes]) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{file}: no such file", hint="name a folder that save_pretrained wrote")
    _read_json(file)
    try:
        with copied_files(folder, digests) as files:
            config = AutoConfig.from_pretrained(files, local_files_only=True, trust_remote_code=False)
    except _UNUSABLE as error:
        raise ModelError(f"{file}: {_line(error)}", hint="check the file against the model's source") from error
    architectures = config.architectures if isinstance(config.architectures, list) else []
    if not any(_writes_text(str(name), config) for name in architectures):
        raise ModelError(
            f"{file}: architectures {architectures} is not a causal language model",
            hint="only models that transformers' AutoModelForCausalLM loads can be pruned",
        )
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        how = quantised.get("quant_method") if isinstance(quantised, dict) else type(quantised).__name__
        raise ModelError(f"{file}: the model is quantised ({how})", hint="prune the unquantised model")
    return config


def _writes_text(architecture: str, config: Any) -> bool:
    """Return whether an architecture is a causal language model, or has one inside, beside what reads images."""
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return True
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    beside = architecture.endswith("ForConditionalGeneration") and not config.is_encoder_decoder
    return known is not None and (architecture == known or beside)


def _check_apart(folder: Path, in_blocks: Mapping[str, Mapping[str, Place]]) -> None:
    """Check that no prunable weight is in two blocks: each block's inputs come from the pruned ones before it."""
    held: dict[str, str] = {}
    for prefix, names in in_blocks.items():
        for name in names:
            if (other := held.setdefault(name, prefix)) != prefix:
                raise ModelError(
                    f"{folder}: {other} and {prefix} share {name}", hint="this kind of model is not supported"
                )


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


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
