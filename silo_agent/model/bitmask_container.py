"""A sparse model without its zeros (docs/bitmask-container.md), read a tensor at a time or as a transformers model."""

import copy
import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from crypto.errors import ModelError

FORMAT: Final = "sparsilo-bitmask/1"
"""Metadata `format` of every file of a container, where a dense file has `pt`."""

SUFFIX: Final = ".bitmask.safetensors"
"""Of a container's files, in the place of `.safetensors`: `from_pretrained` must not take them for dense ones."""

SHAPES: Final = "sparsilo.bitmask.shapes"
"""Metadata key: JSON object of the tensors stored as bitmask, name to shape."""

PART: Final = "sparsilo.bitmask.part"
"""Metadata key: `i/n`, the i-th of the container's n files."""

KEEP_BITS: Final = ".keep_bits"
VALUES: Final = ".values"

BITS_AS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type that carries an element of so many bytes: only +0.0 has no bit set, and no bit is ever changed."""

_HINT = "copy the container again, or pack the model again"


def stored_bytes(elements: int, kept: int, element_bytes: int) -> int:
    """Bytes of data that a tensor takes in a container: as bitmask where that is smaller, else dense."""
    return min(elements * element_bytes, (elements + 7) // 8 + kept * element_bytes)


class BitmaskContainer(Mapping[str, Tensor]):
    """A container folder: the model's tensors by stored name, each expanded (stored dtype and shape, CPU) when asked.

    Raises ModelError, which names the file, where the folder holds no whole container;
    a tensor whose keep bits and values do not belong together is found when it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._readers = {file: _open(file) for file in sorted(folder.glob(f"*{SUFFIX}"))}
        if not self._readers:
            raise ModelError(f"{folder}: no file *{SUFFIX}", hint="`aggregator pack` writes containers")
        self._check_parts()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        for file, reader in self._readers.items():
            shapes = _shapes(file, reader)
            halves = {f"{name}{half}" for name in shapes for half in (KEEP_BITS, VALUES)}
            for name in sorted({*shapes, *reader.keys()} - halves):
                if name in self._file_of:
                    raise ModelError(f"{file}: {name} is in {self._file_of[name].name} too", hint=_HINT)
                self._file_of[name] = file
            self._shapes |= shapes

    def _check_parts(self) -> None:
        parts = sorted(reader.metadata().get(PART, "none") for reader in self._readers.values())
        of = len(parts)
        if parts != sorted(f"{index}/{of}" for index in range(1, of + 1)):
            raise ModelError(
                f"{self.folder}: {of} files *{SUFFIX} are parts {', '.join(parts)}",
                hint="copy the missing files, and take away those of another model",
            )

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, sorted."""
        return tuple(self._readers)

    def names(self, file: Path) -> tuple[str, ...]:
        """The tensors in one of `files`, sorted."""
        return tuple(name for name, each in self._file_of.items() if each == file)

    def metadata(self, file: Path) -> dict[str, str]:
        """Metadata of the dense file that one of `files` stands for; its `format` is `pt`."""
        found: dict[str, str] = self._readers[file].metadata()
        return {key: value for key, value in found.items() if key not in {SHAPES, PART}} | {"format": "pt"}

    def dtype(self, name: str) -> str:
        """The stored dtype as safetensors names it, such as `BF16`."""
        entry = name + VALUES if name in self._shapes else name
        return str(self._reader(name).get_slice(entry).get_dtype())

    def shape(self, name: str) -> tuple[int, ...]:
        """The stored shape."""
        found = self._shapes.get(name)
        return tuple(self._reader(name).get_slice(name).get_shape()) if found is None else found

    def _reader(self, name: str) -> Any:
        return self._readers[self._file_of[name]]

    def __getitem__(self, name: str) -> Tensor:
        reader = self._reader(name)
        if name not in self._shapes:
            tensor: Tensor = reader.get_tensor(name)
            return tensor
        shape = self._shapes[name]
        packed, values = reader.get_tensor(name + KEEP_BITS), reader.get_tensor(name + VALUES)
        unpacked = np.unpackbits(packed.numpy(), bitorder="little")
        kept = torch.from_numpy(unpacked[: prod(shape)]).bool()
        if unpacked[kept.numel() :].any() or int(kept.count_nonzero()) != values.numel():
            raise ModelError(f"{self._file_of[name]}: {name}: keep bits and values do not fit", hint=_HINT)
        bits = torch.zeros(kept.numel(), dtype=BITS_AS[values.element_size()])
        bits[kept] = values.view(bits.dtype)
        return bits.view(values.dtype).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def load(folder: Path) -> Any:
    """The transformers model in a container folder, in eval mode, as `from_pretrained` loads the unpacked folder.

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


def _open(file: Path) -> Any:
    try:
        reader: Any = safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: damaged or not safetensors: {error}", hint=_HINT) from error
    found = (reader.metadata() or {}).get("format")
    if found != FORMAT:
        raise ModelError(f"{file}: its format is {found}, not {FORMAT}", hint="`aggregator pack` writes containers")
    return reader


def _shapes(file: Path, reader: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors stored as bitmask, checked against the entries that hold them."""
    try:
        shapes = json.loads(reader.metadata().get(SHAPES, ""))
        shapes = {name: tuple(int(size) for size in shape) for name, shape in shapes.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file}: {SHAPES} is not a JSON object of shapes", hint=_HINT) from error
    present = set(reader.keys())
    for name, shape in shapes.items():
        if min(shape, default=0) < 0 or name in present or not {name + KEEP_BITS, name + VALUES} <= present:
            raise ModelError(f"{file}: {name} is not stored as {SHAPES} says", hint=_HINT)
        packed, values = reader.get_slice(name + KEEP_BITS), reader.get_slice(name + VALUES)
        if (packed.get_dtype(), packed.get_shape()) != ("U8", [(prod(shape) + 7) // 8]) or len(values.get_shape()) != 1:
            raise ModelError(f"{file}: {name}: keep bits or values have another shape than {list(shape)}", hint=_HINT)
    return shapes
