"""The sparse model on disk: the dense model's folder with the zeroed weights zeroed, and not one other byte changed."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor

from crypto.errors import ModelError, OutputError
from silo_agent.host.whole_file import whole_folder
from silo_agent.model.bitmask_container import BITS_AS
from silo_agent.model.dense_weights import DenseWeights

BYTES: Final = {
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
"""Bytes of one element, by safetensors dtype name."""

SLICE: Final = 1 << 22
"""Elements written at a time."""

WEIGHT_SUFFIXES: Final = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"}
"""Files of weights, in whatever format: dense ones must not lie beside the sparse ones."""


def write_tensors(
    path: Path,
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    data: Callable[[str], Iterable[bytes | memoryview]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file (https://github.com/huggingface/safetensors, "Format") in slices, atomically.

    `tensors` lists (name, safetensors dtype name, shape); `data(name)` yields that tensor's little-endian bytes, and is
    called once per tensor: wider elements first, which aligns every tensor, otherwise in the order given.
    The same arguments give the same bytes. On any error `path` is as it was before.
    Raises OutputError if the file cannot be written, ValueError if `data` does not fit `tensors`.
    """
    # safetensors' own save_file wants every tensor in memory at once: more than a machine has, for the models in use
    names = [name for name, _, _ in tensors]
    if len({*names, "__metadata__"}) != len(names) + 1:
        raise ValueError(f"{path.name}: tensor names repeat, or one is __metadata__")
    ordered = sorted(tensors, key=lambda tensor: -BYTES[tensor[1]])
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in ordered:
        start, end = end, end + BYTES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)

    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            try:
                file.write(len(head).to_bytes(8, "little") + head)
                for name, dtype, shape in ordered:
                    left = BYTES[dtype] * prod(shape)
                    for piece in data(name):
                        left -= memoryview(piece).nbytes
                        if left < 0:
                            break
                        file.write(piece)
                    if left:
                        raise ValueError(f"{path.name}: the data of {name} is {'short' if left > 0 else 'too long'}")
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}", hint="check space and permissions") from error


def write_sparse_model(
    weights: DenseWeights, pruned: Callable[[str], Tensor | None], folder: Path, provenance: Mapping[str, str]
) -> dict[str, float]:
    """Write `weights` to `folder` as `pruned(name)` says: +0.0 wherever a keep mask (bool) is False, or the pruned
    weight itself, of the stored dtype.

    `pruned` is asked once for every prunable tensor; None leaves that one dense. Shards keep their names, every other
    byte of every tensor and every file beside the weights (config, tokenizer, index) is the dense model's, and
    `provenance` joins the safetensors metadata: `from_pretrained` loads the folder, and the same arguments write the
    same bytes. At most one tensor and its pruned form are in memory. `folder` appears whole or not at all.
    Returns the achieved sparsity (zeros / elements, counted on what is written) of every prunable tensor.
    Raises OutputError if `folder` is not empty or cannot be written, ModelError for a tensor of an unknown dtype.
    """
    stored, prunable = set(weights.names), set(weights.prunable)
    achieved: dict[str, float] = {}

    def data(name: str) -> Iterator[memoryview]:
        tensor = weights.tensor(name)
        found = pruned(name) if name in prunable else None
        if found is not None and (found.dtype not in (torch.bool, tensor.dtype) or found.shape != tensor.shape):
            raise ValueError(f"the pruned {name} is {found.dtype} {list(found.shape)}")
        kept = found.flatten() if found is not None and found.dtype == torch.bool else None
        tensor = (tensor if found is None or kept is not None else found).contiguous().flatten()
        nonzeros = 0
        for start in range(0, tensor.numel(), SLICE):
            bits = tensor[start : start + SLICE].view(BITS_AS[tensor.element_size()])
            if kept is not None:
                bits = bits.masked_fill(~kept[start : start + SLICE], 0)  # a copy: the tensor is the mapped file
            if name in prunable:
                nonzeros += int(bits.view(tensor.dtype).count_nonzero())
            yield bits.numpy().data
        if name in prunable:
            achieved[name] = (tensor.numel() - nonzeros) / tensor.numel()

    with whole_folder(folder) as partial:
        for file in weights.files:
            # what a shard holds beside the index belongs to no model and is in no plan's digest
            tensors = [tensor for tensor in _tensors(file) if tensor[0] in stored]
            write_tensors(partial / file.name, tensors, data, {**provenance, "format": "pt"})
        copy_others(weights.folder, partial)
    return achieved


def copy_others(source: Path, folder: Path) -> None:
    """Copy every file beside the weights: config, tokenizer, index."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix.lower() not in WEIGHT_SUFFIXES:
            shutil.copyfile(file, folder / file.name)


def _tensors(file: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, safetensors dtype name, shape) of every tensor of a safetensors file, in the order of their bytes."""
    with safe_open(file, framework="pt") as reader:
        views = {name: reader.get_slice(name) for name in reader.offset_keys()}
        tensors = [(name, view.get_dtype(), tuple(view.get_shape())) for name, view in views.items()]
    for name, dtype, _ in tensors:
        if dtype not in BYTES:
            raise ModelError(
                f"{file.name}: {name} is {dtype}, which cannot be written", hint="use an unquantised model"
            )
    return tensors
