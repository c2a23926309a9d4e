"""A sparse model without its zeros (docs/bitmask-container.md), read a tensor at a time or as a transformers model."""

import copy
import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from crypto.errors import ModelError
from silo_agent.checkpoint.mapped_tensors import as_integers, mapped_tensor
from silo_agent.checkpoint.tensor_files import StoredTensor, TensorFile, read_tensor_file

FORMAT: Final = "sparsilo-bitmask/1"
"""Metadata `format` of every file of a container, where a dense file has `pt`."""

SUFFIX: Final = ".bitmask.safetensors"
"""How a container's files end, in the place of `.safetensors`: `from_pretrained` must not take them for dense ones."""

SHAPES: Final = "sparsilo.bitmask.shapes"
"""Metadata key: JSON object of the tensors stored as bitmask, name to shape."""

PART: Final = "sparsilo.bitmask.part"
"""Metadata key: `i/n`, the i-th of the container's n files."""

KEEP_BITS: Final = ".keep_bits"
VALUES: Final = ".values"

_HINT = "copy the container again, or pack the model again"


def stored_bytes(elements: int, kept: int, element_bytes: int) -> int:
    """Return the bytes of data that a tensor takes in a container: as bitmask where that is smaller, else dense."""
    return min(elements * element_bytes, (elements + 7) // 8 + kept * element_bytes)


class BitmaskContainer(Mapping[str, Tensor]):
    """A container folder: the model's tensors by stored name, each expanded (stored dtype and shape, CPU) when asked.

    Raises ModelError, which names the file, where the folder holds no whole container;
    a tensor whose keep bits and values do not belong together is found when it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._headers = {file: _open(file) for file in sorted(folder.glob(f"*{SUFFIX}"))}
        if not self._headers:
            raise ModelError(f"{folder}: no file *{SUFFIX}", hint="`aggregator pack` writes containers")
        self._check_parts()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        for file, header in self._headers.items():
            shapes = _shapes(file, header)
            halves = {f"{name}{half}" for name in shapes for half in (KEEP_BITS, VALUES)}
            for name in sorted({*shapes, *header.tensors} - halves):
                if name in self._file_of:
                    raise ModelError(f"{file}: {name} is in {self._file_of[name].name} too", hint=_HINT)
                self._file_of[name] = file
            self._shapes |= shapes

    def _check_parts(self) -> None:
        parts = sorted(header.metadata.get(PART, "none") for header in self._headers.values())
        of = len(parts)
        if parts != sorted(f"{index}/{of}" for index in range(1, of + 1)):
            raise ModelError(
                f"{self.folder}: {of} files *{SUFFIX} are parts {', '.join(parts)}",
                hint="copy the missing files, and take away those of another model",
            )

    @property
    def files(self) -> tuple[Path, ...]:
        """The container's files, sorted."""
        return tuple(self._headers)

    def names(self, file: Path) -> tuple[str, ...]:
        """Return the names of the tensors in one of `files`, sorted."""
        return tuple(name for name, holder in self._file_of.items() if holder == file)

    def metadata(self, file: Path) -> dict[str, str]:
        """Return the metadata of the dense file that one of `files` stands for; its `format` is `pt`."""
        own = self._headers[file].metadata
        return {key: value for key, value in own.items() if key not in {SHAPES, PART}} | {"format": "pt"}

    def dtype(self, name: str) -> str:
        """Return the stored dtype as safetensors names it, such as `BF16`."""
        return self._stored(name, VALUES if name in self._shapes else "").dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the stored shape."""
        return self._shapes[name] if name in self._shapes else self._stored(name).shape

    def _stored(self, name: str, half: str = "") -> StoredTensor:
        return self._headers[self._file_of[name]].tensors[name + half]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._shapes:
            return mapped_tensor(self._stored(name))
        shape, values = self._shapes[name], mapped_tensor(self._stored(name, VALUES))
        unpacked = np.unpackbits(self._stored(name, KEEP_BITS).mapped(), bitorder="little")
        kept = torch.from_numpy(unpacked[: prod(shape)]).bool()
        if unpacked[kept.numel() :].any() or int(kept.count_nonzero()) != values.numel():
            raise ModelError(f"{self._file_of[name]}: {name}: keep bits and values do not fit", hint=_HINT)
        kept_bits = as_integers(values)
        bits = torch.zeros(kept.numel(), dtype=kept_bits.dtype)
        bits[kept] = kept_bits
        return bits.view(values.dtype).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def load(folder: Path) -> Any:
    """Return a container folder's transformers model, in eval mode, as `from_pretrained` loads the unpacked folder.

    Raises ModelError where the container is damaged or is not the whole model that its config.json describes.
    """
    state = dict(BitmaskContainer(folder))
    make: Any = AutoModelForCausalLM.from_config
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):  # for its class: from_pretrained takes a state only of a class that is known
            build: Any = type(make(copy.deepcopy(config), trust_remote_code=False)).from_pretrained
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: no causal language model can be built: {error}", hint=_HINT) from error
    model, loading = build(
        None,
        config=config,
        state_dict=state,
        dtype="auto",
        ignore_mismatched_sizes=True,  # they are refused below
        output_loading_info=True,
    )
    if unfit := [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]:
        raise ModelError(f"{folder}: no tensor that fits {min(unfit)}", hint=_HINT)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _open(file: Path) -> TensorFile:
    header = read_tensor_file(file)
    if (given := header.metadata.get("format")) != FORMAT:
        raise ModelError(f"{file}: its format is {given}, not {FORMAT}", hint="`aggregator pack` writes containers")
    return header


def _shapes(file: Path, header: TensorFile) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors stored as bitmask, checked against the entries that hold them."""
    try:
        shapes = json.loads(header.metadata.get(SHAPES, ""))
        shapes = {name: tuple(int(size) for size in shape) for name, shape in shapes.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file}: {SHAPES} is not a JSON object of shapes", hint=_HINT) from error
    for name, shape in shapes.items():
        packed, values = header.tensors.get(name + KEEP_BITS), header.tensors.get(name + VALUES)
        if min(shape, default=0) < 0 or name in header.tensors or packed is None or values is None:
            raise ModelError(f"{file}: {name} is not stored as {SHAPES} says", hint=_HINT)
        if (packed.dtype, packed.shape) != ("U8", ((prod(shape) + 7) // 8,)) or len(values.shape) != 1:
            raise ModelError(f"{file}: {name}: keep bits or values have another shape than {list(shape)}", hint=_HINT)
    return shapes
