"""The sparse model on disk: the dense model's folder with the zeroed weights zeroed, and not one other byte changed."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from silo_agent.host.whole_file import whole_folder
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model.mapped_tensors import as_integers
from silo_agent.model.tensor_files import read_tensor_file, write_tensor_file

SLICE: Final = 1 << 22
"""Elements written at a time."""

WEIGHT_SUFFIXES: Final = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"}
"""Files of weights, in whatever format: dense ones must not lie beside the sparse ones."""


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
    Raises OutputError if `folder` is not empty or cannot be written.
    """
    stored, prunable = set(weights.names), set(weights.prunable)
    achieved: dict[str, float] = {}

    def data(name: str) -> Iterator[memoryview]:
        tensor = weights.tensor(name)
        change = pruned(name) if name in prunable else None
        if change is not None and (change.dtype not in (torch.bool, tensor.dtype) or change.shape != tensor.shape):
            raise ValueError(f"the pruned {name} is {change.dtype} {list(change.shape)}")
        kept = change.flatten() if change is not None and change.dtype == torch.bool else None
        tensor = (tensor if change is None or kept is not None else change).contiguous().flatten()
        nonzeros = 0
        for start in range(0, tensor.numel(), SLICE):
            bits = as_integers(tensor[start : start + SLICE])
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
            tensors = read_tensor_file(file).tensors.items()
            entries = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors if name in stored]
            write_tensor_file(partial / file.name, entries, data, {**provenance, "format": "pt"})
        copy_others(weights.folder, partial)
    return achieved


def copy_others(source: Path, folder: Path) -> None:
    """Copy every file beside the weights: config, tokenizer, index."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix.lower() not in WEIGHT_SUFFIXES:
            shutil.copyfile(file, folder / file.name)
