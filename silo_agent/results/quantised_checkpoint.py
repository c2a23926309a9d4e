"""A quantised model's folder, as transformers and vLLM load it: the format `pack-quantized` of compressed-tensors.

Beside a prunable `NAME.weight` of the dense model there is (https://github.com/vllm-project/compressed-tensors):
- `NAME.weight_packed`, int32 [d_out, d_in * bits / 32 rounded up]: each row's levels, made unsigned by adding
  2^(bits - 1), one after the other from the lowest bits of the first word on;
- `NAME.weight_scale`, of the dense weight's dtype, [d_out, groups];
- `NAME.weight_shape`, int64 [2]: d_out and d_in.

All other tensors are the dense model's. config.json says how to read it. It has no `sparsity_config`, although weights
may be pruned as well: vLLM no longer takes one.
"""

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.errors import BadAudit, ModelError
from crypto.names import AGGREGATOR, Bits
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.checkpoint.mapped_tensors import STORED_NAMES, as_integers, mapped_tensor
from silo_agent.checkpoint.tensor_files import DTYPES, Entry, Piece, read_tensor_file, tensor_file_pieces
from silo_agent.results.sparse_checkpoint import (
    INDEX_FILE,
    SINGLE_FILE,
    Division,
    check_files,
    division_into_files,
    division_of,
    index_content,
    whole,
    write_files,
)
from silo_agent.second_order.gptq import BLOCK_COLUMNS, Quantised, group_size

CONFIG_FILE: Final = "config.json"

QUANTISED_FOLDER: Final = "model-quantised"
"""Beside `model/`, which has the same weights as plain numbers."""


def write_quantised_model(
    weights: DenseWeights, quantised: Callable[[str], Quantised], bits: Bits, folder: Path
) -> None:
    """Write the dense model with every prunable weight as `quantised(name)`; `folder` appears whole or not at all.

    At most one weight is in memory. Raises ModelError where `check_quantisable` does; OutputError if `folder` is not
    empty or cannot be written; ValueError where a quantised weight is of another shape or dtype than
    `silo_agent.second_order.gptq` makes it.
    """
    check_quantisable(weights)
    by_tensor = _entries(weights, bits)
    division = {
        file: [part for name in names for part, _, _ in by_tensor[name]]
        for file, names in division_into_files(weights).items()
    }
    write_files(_files(weights, quantised, bits, division), folder)


def check_quantised_model(
    weights: DenseWeights,
    plain: Callable[[str], Tensor],
    bits: Bits,
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> None:
    """Check that `folder` is what `write_quantised_model` makes of weights that come to `plain(name)`, bit for bit.

    Only which file holds which tensor is free. At most one weight is in memory. Raises ModelError where a file of
    weights is damaged, else BadAudit naming the first file that differs, and the tensor where it is in one.
    """
    if not folder.is_dir():
        raise BadAudit(f"{folder}: is missing", party=AGGREGATOR)
    entries = [*chain.from_iterable(_entries(weights, bits).values())]
    division = division_of(folder, [name for name, _, _ in entries])
    stored = {name: tensor for file in division for name, tensor in read_tensor_file(folder / file).tensors.items()}
    for name, dtype, shape in entries:
        if (stored[name].dtype, stored[name].shape) != (dtype, shape):
            said = f"is {stored[name].dtype} {[*stored[name].shape]}, not {dtype} {[*shape]}"
            raise BadAudit(f"{stored[name].file}: tensor {name}: {said}", party=AGGREGATOR)

    def published(name: str) -> Quantised:
        levels = unpacked(mapped_tensor(stored[f"{name}_packed"]), weights.shape(name)[1], bits)
        return Quantised(levels, mapped_tensor(stored[f"{name}_scale"]))

    for name in weights.prunable:
        if not torch.equal(as_integers(published(name).weight), as_integers(plain(name))):
            file = stored[f"{name}_packed"].file
            raise BadAudit(f"{file}: tensor {name}: is not the weight of the plain model", party=AGGREGATOR)
    check_files(_files(weights, published, bits, division), len(division), folder, progress)


def check_quantisable(weights: DenseWeights) -> None:
    """Raise ModelError where weights are stored input first, as GPT-2's are, or all experts' in one tensor."""
    for name in weights.prunable:
        if weights.input_first(name):
            raise _not_in_the_format(weights, name, "is stored input first")
    for name in weights.stacks:
        raise _not_in_the_format(weights, name, "holds all experts' matrices")


def _not_in_the_format(weights: DenseWeights, name: str, said: str) -> ModelError:
    return ModelError(
        f"{weights.folder}: {name} {said}, which the quantised format does not have",
        hint="this kind of model can be pruned but not quantised",
    )


def _files(
    weights: DenseWeights, quantised: Callable[[str], Quantised], bits: Bits, division: Division
) -> Iterator[tuple[str, Iterator[Piece]]]:
    """Yield each file's name, and the bytes to be used up before the next file."""
    entries = {entry[0]: entry for entry in chain.from_iterable(_entries(weights, bits).values())}
    data = _data(weights, quantised, bits)
    for file, names in division.items():
        yield file, tensor_file_pieces(file, [entries[name] for name in sorted(names)], data, {"format": "pt"})
    if [*division] != [SINGLE_FILE]:
        total = sum(DTYPES[dtype].bytes * prod(shape) for _, dtype, shape in entries.values())
        yield INDEX_FILE, whole(index_content(division, total))
    for name in weights.file_digests:
        content = weights.file_content(name)
        if name == CONFIG_FILE:
            config = json.loads(content) | {"quantization_config": quantisation_config(weights, bits)}
            content = f"{json.dumps(config, indent=2)}\n".encode()
        yield name, whole(content)


def _entries(weights: DenseWeights, bits: Bits) -> dict[str, list[Entry]]:
    """Return what is written for each tensor of the dense model, by its name."""
    entries, prunable = {}, {*weights.prunable}
    for name in weights.stored_names:
        dtype, shape = STORED_NAMES[weights.dtype(name)], tuple(weights.shape(name))
        entries[name] = [(name, dtype, shape)]
        if name in prunable:
            d_out, d_in = shape
            entries[name] = [
                (f"{name}_packed", "I32", (d_out, -(-d_in * bits // 32))),
                (f"{name}_scale", dtype, (d_out, d_in // group_size(d_in))),
                (f"{name}_shape", "I64", (2,)),
            ]
    return entries


def _data(
    weights: DenseWeights, quantised: Callable[[str], Quantised], bits: Bits
) -> Callable[[str], Iterator[memoryview]]:
    """Return what yields the bytes of an entry."""
    prunable = {*weights.prunable}

    def data(entry: str) -> Iterator[memoryview]:
        name, _, part = entry.rpartition("_")
        if name not in prunable:
            yield as_integers(weights.tensor(entry)).numpy().data
        elif part == "shape":
            yield np.array(weights.shape(name), "<i8").data
        elif part == "packed":
            yield packed(_checked(weights, name, quantised(name)).levels, bits).data
        else:
            yield as_integers(_checked(weights, name, quantised(name)).scales.cpu()).numpy().data

    return data


def _checked(weights: DenseWeights, name: str, weight: Quantised) -> Quantised:
    shape, dtype = weights.shape(name), weights.dtype(name)
    groups = (shape[0], shape[1] // group_size(shape[1]))
    expected = [(torch.int8, shape), (dtype, groups)]
    if [(tensor.dtype, tensor.shape) for tensor in weight] != expected:
        raise ValueError(f"the quantised {name} is {[(tensor.dtype, [*tensor.shape]) for tensor in weight]}")
    return weight


def packed(levels: Tensor, bits: Bits) -> NDArray[np.uint8]:
    """Return the bytes of `weight_packed`, uint8 [d_out, 4 * words], of levels int8 [d_out, d_in]."""
    unsigned = (levels.cpu().numpy() + np.int16(2 ** (bits - 1))).astype(np.uint8)
    padded: NDArray[np.uint8] = np.pad(unsigned, ((0, 0), (0, -unsigned.shape[1] % (32 // bits))))
    return padded if bits == 8 else padded[:, ::2] | padded[:, 1::2] << np.uint8(4)


def unpacked(words: Tensor, d_in: int, bits: Bits) -> Tensor:
    """Return the levels, int8 [d_out, d_in], that `weight_packed`, int32 [d_out, words], has."""
    unsigned = words.view(torch.uint8)
    if bits == 4:
        unsigned = torch.stack([unsigned & 15, unsigned >> 4], 2).flatten(1)
    return torch.sub(unsigned[:, :d_in].short(), 2 ** (bits - 1)).to(torch.int8)


def quantisation_config(weights: DenseWeights, bits: Bits) -> dict[str, Any]:
    """Return what config.json says of a model all of whose prunable weights are quantised.

    Where all of them have groups of 128, or all have rows with one scale, they are the linear layers, whatever their
    names: so most models on the hub have it. Else patterns name them that leave open which block and which expert.
    `ignore` has all other layers with a matrix.
    """
    patterns: dict[str, set[str]] = {"channel": set(), "group": set()}
    for name in weights.prunable:
        inside = re.split(r"\.\d+\.", name.removesuffix(".weight"), maxsplit=1)[-1]
        pattern = re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(inside))
        grouped = group_size(weights.shape(name)[1]) == BLOCK_COLUMNS
        patterns["group" if grouped else "channel"].add(rf"re:.*\.{pattern}$")
    quantised = {weights.place(name).parameter for name in weights.prunable}
    dense = [
        name.removesuffix(".weight")
        for name, parameter in weights.skeleton().named_parameters(remove_duplicate=False)
        if name.endswith(".weight") and parameter.ndim == 2 and name not in quantised
    ]
    weight = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False}
    if not all(patterns.values()):
        patterns = {strategy: {"Linear"} for strategy, names in patterns.items() if names}
    groups = [
        {
            "targets": sorted(targets),
            "weights": weight | {"strategy": strategy, "group_size": BLOCK_COLUMNS if strategy == "group" else None},
        }
        for strategy, targets in patterns.items()
    ]
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {f"group_{index}": group for index, group in enumerate(groups)},
        "ignore": dense,
    }
