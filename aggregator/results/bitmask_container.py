"""A sparse model's folder packed without its zeros, and unpacked again (docs/bitmask-container.md)."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from crypto.errors import ModelError
from silo_agent.checkpoint.bitmask_container import (
    FORMAT,
    KEEP_BITS,
    PART,
    SHAPES,
    SUFFIX,
    VALUES,
    BitmaskContainer,
    stored_bytes,
)
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.mapped_tensors import as_integers
from silo_agent.checkpoint.tensor_files import Entry, read_tensor_file, write_tensor_file
from silo_agent.host.whole_file import whole_folder

SLICE: Final = 1 << 22
"""Elements packed at a time."""

WEIGHT_SUFFIXES: Final = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"}
"""Files of weights, in whatever format: those of one form must not lie beside those of another."""


@dataclass(frozen=True)
class PackedBytes:
    """How many bytes the weight files take, dense and packed."""

    dense: int
    bitmask: int


def pack(model: Path, folder: Path) -> PackedBytes:
    """Write the container of a model folder (dense safetensors with zeros) to `folder`, which appears whole or not.

    Each safetensors file becomes a `.bitmask.safetensors`; the files beside them are copied byte for byte. A tensor is
    stored as bitmask where that is smaller. One tensor is read at a time; the same model gives the same bytes.
    Raises ModelError where the model is damaged or cannot be stored so, OutputError if `folder` is not empty or cannot
    be written.
    """
    weights = DenseWeights.open(model)
    with whole_folder(folder) as partial:
        left = set(weights.stored_names)
        for index, file in enumerate(weights.files, 1):
            part = f"{index}/{len(weights.files)}"
            left -= _pack_file(weights, left, file, partial / f"{file.stem}{SUFFIX}", part)
        _copy_others(model, partial)
        packed = sum(file.stat().st_size for file in partial.glob(f"*{SUFFIX}"))
    return PackedBytes(sum(file.stat().st_size for file in weights.files), packed)


def unpack(container: Path, folder: Path) -> None:
    """Write the model folder that `container` was packed from to `folder`, which appears whole or not at all.

    Every tensor has its dtype, shape and bits again, in a file named as before: wider elements first, then by name.
    One tensor is in memory at a time. Raises ModelError where the container is damaged, OutputError as `pack` does.
    """
    packed = BitmaskContainer(container)
    with whole_folder(folder) as partial:
        for file in packed.files:
            tensors = [(name, packed.dtype(name), packed.shape(name)) for name in packed.names(file)]
            dense = partial / f"{file.name.removesuffix(SUFFIX)}.safetensors"
            write_tensor_file(dense, tensors, lambda name: _dense(as_integers(packed[name])), packed.metadata(file))
        _copy_others(container, partial)


def _pack_file(weights: DenseWeights, wanted: set[str], file: Path, target: Path, part: str) -> set[str]:
    """Pack those tensors of one safetensors file that are `wanted`; return their names."""
    header = read_tensor_file(file)
    names = sorted(wanted & header.tensors.keys())
    entries: list[Entry] = []
    sources: dict[str, tuple[str, Callable[[Tensor], Iterator[memoryview]]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        dtype, shape = header.tensors[name].dtype, header.tensors[name].shape
        bits = as_integers(weights.tensor(name))
        kept = int(bits.count_nonzero())
        if stored_bytes(bits.numel(), kept, bits.element_size()) == bits.nbytes:
            entries.append((name, dtype, shape))
            sources[name] = name, _dense
            continue
        shapes[name] = shape
        entries += [(name + KEEP_BITS, "U8", ((bits.numel() + 7) // 8,)), (name + VALUES, dtype, (kept,))]
        sources |= {name + KEEP_BITS: (name, _keep_bits), name + VALUES: (name, _values)}
    if len(sources) < len(entries) or shapes.keys() & sources.keys():
        raise ModelError(f"{file}: a tensor is named as another with {KEEP_BITS} or {VALUES}", hint="rename it")

    def data(entry: str) -> Iterator[memoryview]:
        name, part_of = sources[entry]
        return part_of(as_integers(weights.tensor(name)))

    own = {"format": FORMAT, PART: part, SHAPES: json.dumps(shapes, sort_keys=True, separators=(",", ":"))}
    write_tensor_file(target, entries, data, {**header.metadata, **own})
    return set(names)


def _copy_others(source: Path, folder: Path) -> None:
    """Copy every file beside the weights: config, tokenizer, index, card."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix.lower() not in WEIGHT_SUFFIXES:
            shutil.copyfile(file, folder / file.name)


def _dense(bits: Tensor) -> Iterator[memoryview]:
    yield bits.numpy().data


def _keep_bits(bits: Tensor) -> Iterator[memoryview]:
    for start in range(0, bits.numel(), SLICE):  # a multiple of 8
        yield np.packbits((bits[start : start + SLICE] != 0).numpy(), bitorder="little").data


def _values(bits: Tensor) -> Iterator[memoryview]:
    for start in range(0, bits.numel(), SLICE):
        piece = bits[start : start + SLICE]
        yield piece[piece != 0].numpy().data
