"""What rounds made of the tensors, as files: read back by safetensors itself."""

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from silo_agent.checkpoint.mapped_tensors import STORED_NAMES
from silo_agent.checkpoint.tensor_files import write_tensor_file
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.pruned_tensors import PrunedTensors
from support.opened import Tensors, planned

TENSORS: Tensors = {"a": (0, (3, 5), False), "b": (1, (4, 2), True), "c": (1, (1, 1), False)}
PLAN = planned(TENSORS)


def expanded(dtype: torch.dtype | None) -> dict[str, ExpandedTensor]:
    """With new weights of a dtype, or keep masks alone."""
    generator = torch.Generator().manual_seed(2)
    found = {}
    for name, (_, shape, _) in TENSORS.items():
        counts = torch.randint(0, 4, shape, generator=generator).to(torch.uint8)
        keep = counts > 1
        weight = None if dtype is None else (torch.randn(shape, generator=generator) * keep).to(dtype)
        found[name] = ExpandedTensor(name, keep, weight, keep_counts=counts)
    return found


def collected(tensors: dict[str, ExpandedTensor], folder: Path, *rounds: list[str]) -> PrunedTensors:
    weights: Any = SimpleNamespace(shape=lambda name: torch.Size(TENSORS[name][1]))
    folder.mkdir(exist_ok=True)
    pruned = PrunedTensors(PLAN, weights, folder)
    for names in rounds:
        pruned.add((tensors[name] for name in names), 3)
    return pruned


def written(pruned: PrunedTensors, file: Path) -> Path:
    """What silos keep of a run's tensors (docs/formats.md, section 3)."""
    tensors = {name: pruned[name] for name in TENSORS}
    entries = [(name, STORED_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    write_tensor_file(file, entries, lambda name: [tensors[name].view(torch.uint8).numpy().tobytes()], {})
    return file


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype is other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rounds", [[["a", "b", "c"]], [["a"], ["b", "c"]], [["b", "c"], ["a"]]])
def test_keep_masks_or_weights_and_counts(dtype: torch.dtype | None, rounds: list[list[str]], tmp_path: Path) -> None:
    tensors = expanded(dtype)
    pruned = collected(tensors, tmp_path, *rounds)
    pruned.write_counts(tmp_path / "counts.safetensors")
    counts = load_file(tmp_path / "counts.safetensors")
    assert counts.keys() == tensors.keys()
    for name, tensor in tensors.items():
        changed = tensor.keep if dtype is None else tensor.weight
        assert changed is not None
        assert same(pruned[name], changed)
        assert same(counts[name], tensor.keep_counts)
        by_count = [int((tensor.keep_counts == count).sum()) for count in range(4)]
        assert pruned.keep_counts[name] == by_count
    assert pruned.digest == sha256(written(pruned, tmp_path / "pruned.safetensors").read_bytes()).digest()


def test_the_order_of_rounds_leaves_the_files_bytes_alone(tmp_path: Path) -> None:
    tensors = expanded(torch.float32)
    one = collected(tensors, tmp_path / "one", ["a", "b", "c"])
    other = collected(tensors, tmp_path / "other", ["c", "b"], ["a"])
    assert one.digest == other.digest


def test_a_histogram_reaches_to_all_survivors(tmp_path: Path) -> None:
    none = ExpandedTensor(
        "a", torch.zeros(3, 5, dtype=torch.bool), None, keep_counts=torch.zeros(3, 5, dtype=torch.uint8)
    )
    pruned = collected(expanded(None) | {"a": none}, tmp_path, ["a", "b", "c"])
    assert pruned.keep_counts["a"] == [15, 0, 0, 0]
