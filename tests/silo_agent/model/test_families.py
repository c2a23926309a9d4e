"""Every family of models: what is prunable, what each weight sees, and what follows from pruning it.

The references are the whole model in memory and the files; where a matrix is an expert's, its tokens and inputs are
calculated from the router's choice and the stored matrices.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model import batches
from silo_agent.model.activations import BlockWalk
from support.models import BLOCKS, family, in_memory, tiny_model

CPU = torch.device("cpu")
EXPERTS = {"mixtral": ("w1", "w3", "w2"), "qwen3_moe": ("gate_proj", "up_proj", "down_proj")}
SEQUENCES = torch.randint(0, 300, (5, 24), generator=torch.Generator().manual_seed(0))
GENERATOR = torch.Generator().manual_seed(1)


SHARED = {"mixtral": 2 + 4 * 2, "qwen3_moe": 2 + 12 * 2}
"""How many different inputs a block's matrices have, where it is not four: q, k and v; output; gate and up; down."""


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 50)  # batches of 2, 2 and 1 sequences


@pytest.fixture(scope="module", params=BLOCKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp(name), family(name), dtype=torch.bfloat16)


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def inputs_of(model: Any, tensors: dict[str, Tensor], sequences: list[Tensor]) -> dict[str, Tensor]:
    """What each prunable of the whole model is multiplied with, float64 [tokens, d_in], from hooks and by routing."""
    seen: dict[str, list[Tensor]] = {}

    def linear(name: str) -> Callable[..., None]:
        return lambda _, inputs: seen.setdefault(f"{name}.weight", []).append(inputs[0].flatten(0, -2).double())

    def experts(prefix: str, matrices: tuple[str, ...]) -> Callable[..., None]:
        gate, up, down = matrices

        def look(_: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
            hidden, chosen, _weights = inputs
            for expert in range(sum(1 for key in tensors if re.fullmatch(rf"{prefix}\.\d+\.{up}\.weight", key))):
                name = f"{prefix}.{expert}"
                x = hidden[(chosen == expert).any(1)].double()
                inner = functional.silu(x @ tensors[f"{name}.{gate}.weight"].T.double())
                inner = inner * (x @ tensors[f"{name}.{up}.weight"].T.double())
                for matrix, x_of in ((gate, x), (up, x), (down, inner)):
                    seen.setdefault(f"{name}.{matrix}.weight", []).append(x_of)

        return look

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            handles.append(module.register_forward_pre_hook(linear(name)))
        elif name.endswith(".experts"):
            prefix = name.replace(".mlp.", ".block_sparse_moe.") if "mixtral" in str(type(module)).lower() else name
            handles.append(module.register_forward_pre_hook(experts(prefix, EXPERTS[model.config.model_type])))
    with torch.no_grad():
        for sequence in sequences:
            model(input_ids=sequence[None])
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def test_prunable_is_every_matrix_of_every_block_but_the_routers(name: str, folder: Path) -> None:
    weights, tensors = DenseWeights.open(folder), stored(folder)
    for index, block in enumerate(weights.blocks):
        assert (block.index, block.prefix) == (index, f"{BLOCKS[name]}.{index}")
        matrices = {key for key, tensor in tensors.items() if key.startswith(f"{block.prefix}.") and tensor.ndim == 2}
        routers = {key for key in matrices if re.search(r"(mlp|block_sparse_moe)\.gate\.weight$", key)}
        assert len(routers) == (name in EXPERTS)
        assert set(block.prunable) == matrices - routers and len(block.prunable) == len(set(block.prunable))
        for key in block.prunable:
            place = weights.place(key)
            assert weights.input_first(key) == (name == "gpt2")
            assert place.last - place.first == weights.shape(key)[0]
    assert len(weights.blocks) == 2


def test_a_loaded_skeleton_is_the_model(name: str, folder: Path) -> None:
    weights, model = DenseWeights.open(folder), in_memory(folder)
    skeleton = weights.skeleton()
    assert all(parameter.is_meta for parameter in skeleton.parameters()) and not skeleton.training
    weights.load(skeleton, "", CPU, torch.float32)
    loaded, expected = dict(skeleton.named_parameters()), dict(model.named_parameters())
    assert loaded.keys() >= expected.keys()
    assert all(
        torch.equal(loaded[key], value) and loaded[key].dtype == torch.float32 for key, value in expected.items()
    )
    with torch.no_grad():
        torch.testing.assert_close(skeleton(input_ids=SEQUENCES).logits, model(input_ids=SEQUENCES).logits)
    for block, module in zip(weights.blocks, skeleton.get_submodule(BLOCKS[name]), strict=True):
        for key in block.prunable:
            assert torch.equal(weights.loaded(module, block.prefix, key), stored(folder)[key].float())
    weights.release(skeleton)
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def test_statistics_are_those_of_the_whole_model(name: str, folder: Path) -> None:
    weights, sequences = DenseWeights.open(folder), [*SEQUENCES, SEQUENCES[0, :7], SEQUENCES[1, :12], SEQUENCES[2, :7]]
    expected = inputs_of(in_memory(folder), stored(folder), sequences)
    walk = BlockWalk(weights, sequences, device=CPU)
    for block in walk:
        energies, tokens = walk.energies(), walk.tokens
        grams = walk.grams()
        assert tuple(energies) == tuple(grams) == tuple(tokens) == tuple(walk.tokens) == block.prunable
        assert tokens == walk.tokens == {key: len(expected[key]) for key in block.prunable}
        for key in block.prunable:
            x = expected[key]
            size = x.shape[1]
            assert size == weights.shape(key)[0 if name == "gpt2" else 1]
            assert energies[key].dtype == grams[key].dtype == torch.float32
            assert energies[key].shape == (size,) and grams[key].shape == (size, size)
            scale = float((x**2).sum(0).max()) if len(x) else 1.0
            torch.testing.assert_close(energies[key].double(), (x**2).sum(0), rtol=1e-4, atol=1e-6 * scale)
            torch.testing.assert_close(grams[key].double(), x.T @ x, rtol=1e-4, atol=1e-5 * scale)
        shared = {frozenset(key for key in grams if grams[key] is gram) for gram in grams.values()}
        for group in shared:  # who shares a tensor sees the same
            first = next(iter(group))
            assert all(torch.equal(expected[key], expected[first]) for key in group)
        assert len(shared) == SHARED.get(name, 4)
        walk.advance({})
    if name in EXPERTS:
        assert len(set(tokens.values())) > 2


@pytest.mark.parametrize("form", ["keep masks", "weights"])
def test_logits_under_changed_weights_are_the_whole_models(name: str, folder: Path, form: str) -> None:
    weights = DenseWeights.open(folder)
    keep = {key: torch.rand(weights.shape(key), generator=GENERATOR) < 0.5 for key in weights.prunable[::2]}
    dense = stored(folder)
    new = {key: torch.where(mask, dense[key] * 1.5, 0.0) for key, mask in keep.items()}
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for _ in walk:
        walk.advance(keep if form == "keep masks" else new)
    got = torch.cat([logits for _, logits in walk.logits()])

    tensors = {key: dense[key] * mask for key, mask in keep.items()} if form == "keep masks" else new
    model, changed = in_memory(folder), {**dense, **tensors}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key in tensors:
                parameter.copy_(tensors[key])
            elif parameter.ndim == 3:  # experts, one above the other
                prefix, _, which = key.rpartition(".")
                prefix = prefix.replace(".mlp.", ".block_sparse_moe.") if name == "mixtral" else prefix
                matrices = EXPERTS[name][:2] if which == "gate_up_proj" else EXPERTS[name][2:]
                for expert in range(len(parameter)):
                    parts = [changed[f"{prefix}.{expert}.{matrix}.weight"] for matrix in matrices]
                    parameter[expert].copy_(torch.cat(parts))
        expected = model(input_ids=SEQUENCES).logits
        dense_logits = in_memory(folder)(input_ids=SEQUENCES).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (got - dense_logits).abs().max() > 0.1
