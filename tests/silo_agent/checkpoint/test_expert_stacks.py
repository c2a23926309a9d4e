"""Files that hold all experts' matrices in one tensor: read as matrices, pruned as such, written as they were."""

import math
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.pruning.prune import prune_blocks
from silo_agent.results.sparse_checkpoint import SparseModel, division_of, write_sparse_model
from support.models import STACKED, family, tiny_model

CPU = torch.device("cpu")
STACKS = {
    "gpt_oss": ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    "granitemoe": ("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
}


@pytest.fixture(scope="module", params=STACKED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp(name), family(name), dtype=torch.bfloat16)


def test_each_experts_matrix_counts_as_a_tensor(name: str, folder: Path) -> None:
    weights, stored = DenseWeights.open(folder), load_file(folder / "model.safetensors")
    stacks = {f"model.layers.{index}.{stack}" for index in range(2) for stack in STACKS[name]}
    assert weights.stacks == {stack: tuple(f"{stack}.{expert}" for expert in range(4)) for stack in stacks}
    assert weights.stored_names == tuple(sorted(stored))
    matrices = {matrix for of in weights.stacks.values() for matrix in of}
    assert set(weights.names) == stored.keys() - stacks | matrices and matrices <= set(weights.prunable)
    assert weights.digest().keys() == set(weights.names)
    skeleton = weights.skeleton()
    weights.load(skeleton, "", CPU, torch.float32)
    for block, module in zip(weights.blocks, skeleton.model.layers, strict=True):
        for matrix in matrices & set(block.prunable):
            stack, _, expert = matrix.rpartition(".")
            expected = stored[stack][int(expert)]
            assert torch.equal(weights.tensor(matrix), expected) and weights.shape(matrix) == expected.shape
            assert torch.equal(weights.loaded(module, block.prefix, matrix), expected.float())
            assert weights.input_first(matrix) == (name == "gpt_oss")
            assert weights.place(matrix).expert == int(expert)


def test_the_written_model_has_the_stacks_again(name: str, folder: Path, tmp_path: Path) -> None:
    weights, dense = DenseWeights.open(folder), load_file(folder / "model.safetensors")
    sequences = torch.randint(0, 300, (4, 16), generator=torch.Generator().manual_seed(0))
    half = Sparsity(Decimal("0.5"), ComparisonGroup.LAYER)
    pruned = prune_blocks(
        weights, sequences, pruner=Pruner.WANDA, sparsity=lambda _: half, device=CPU, progress=lambda *_: None
    )
    keep = {weight.name: weight.keep for weight in pruned}
    model = SparseModel(weights, keep.get, {}, lambda _: "")
    write_sparse_model(model, tmp_path / "sparse")
    sparse = load_file(tmp_path / "sparse" / "model.safetensors")
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in sparse.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in dense.items()
    }
    for key, tensor in dense.items():
        matrices = weights.stacks.get(key)
        kept = torch.stack([keep[matrix] for matrix in matrices]) if matrices else keep.get(key, torch.tensor(True))
        assert torch.equal(sparse[key], tensor * kept)
    for key, zeros in model.achieved.items():
        assert zeros == math.floor(keep[key].numel() / 2) / keep[key].numel()
    assert division_of(tmp_path / "sparse", weights.stored_names) == {"model.safetensors": [*sparse]}
