"""The walk through the blocks, against the whole model in memory with hooks on its linear layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crypto.errors import ConfigError
from models import BLOCKS, family, in_memory, tiny_llama, tiny_model
from silo_agent import activations
from silo_agent.activations import BlockWalk
from silo_agent.dense_weights import DenseWeights

CPU = torch.device("cpu")
SEQUENCES = torch.randint(0, 300, (5, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "TOKENS_PER_BATCH", 50)  # batches of 2, 2 and 1 sequences


def hooked_energies(model: Any, sequences: Tensor) -> dict[str, Tensor]:
    """Run the whole model a sequence at a time; sum the squares of each linear layer's inputs in float64."""
    totals: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
            x = inputs[0].double().reshape(-1, inputs[0].shape[-1])
            totals[name] = totals.get(name, torch.zeros(x.shape[1], dtype=torch.float64)) + (x**2).sum(0)

        return add

    handles = [
        module.register_forward_hook(hook(f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        for sequence in sequences:
            model(input_ids=sequence[None])
    for handle in handles:
        handle.remove()
    return totals


@pytest.mark.parametrize("name", BLOCKS)
def test_energies_and_logits_of_the_dense_model(tmp_path: Path, name: str) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family(name, num_hidden_layers=3)))
    model = in_memory(tmp_path)
    expected = hooked_energies(model, SEQUENCES)
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    seen = []
    for block in walk:
        energies = walk.energies()
        assert tuple(energies) == block.prunable
        for key, energy in energies.items():
            assert energy.dtype == torch.float32 and energy.shape == (weights.shape(key)[1],)
            torch.testing.assert_close(energy.double(), expected[key], rtol=1e-5, atol=0)
        seen += [*energies]
        walk.advance({})
    assert tuple(seen) == weights.prunable
    with torch.no_grad():
        logits = model(input_ids=SEQUENCES).logits
    ids, got = zip(*walk.logits(), strict=True)
    assert [len(batch) for batch in ids] == [2, 2, 1]
    assert torch.equal(torch.cat(ids), SEQUENCES)
    torch.testing.assert_close(torch.cat(got), logits, rtol=1e-5, atol=1e-5)


def test_the_next_block_sees_the_pruned_one(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    generator = torch.Generator().manual_seed(1)
    keep = {name: torch.rand(weights.shape(name), generator=generator) < 0.5 for name in weights.blocks[0].prunable}
    del keep["model.layers.0.self_attn.v_proj.weight"]  # without a keep mask it stays dense
    model = in_memory(tmp_path)
    dense = hooked_energies(model, SEQUENCES)
    for name, mask in keep.items():
        model.get_parameter(name).data *= mask
    pruned = hooked_energies(model, SEQUENCES)
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for block in walk:
        expected = dense if block.index == 0 else pruned
        for name, energy in walk.energies().items():
            torch.testing.assert_close(energy.double(), expected[name], rtol=1e-5, atol=0)
        walk.advance(keep)


def test_pruning_a_block_leaves_the_mapped_file_alone(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path))
    before = weights.digest()
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for block in walk:
        walk.advance({name: torch.zeros(weights.shape(name), dtype=torch.bool) for name in block.prunable})
    assert weights.digest() == before == DenseWeights.open(tmp_path).digest()


def test_one_block_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, blocks=4))
    skeleton = weights.skeleton()
    monkeypatch.setattr(weights, "skeleton", lambda: skeleton)
    blocks = list(skeleton.model.layers)

    def loaded() -> list[int]:
        return [i for i, block in enumerate(blocks) if not all(value.is_meta for value in block.parameters())]

    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    assert loaded() == [] and skeleton.model.embed_tokens.weight.is_meta
    for block in walk:
        walk.energies()
        assert loaded() == [block.index]
        walk.advance({})
    assert loaded() == []


def test_a_bfloat16_model_is_computed_in_float32(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, dtype=torch.bfloat16))
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    for _ in walk:
        walk.advance({})
    model = in_memory(tmp_path)
    with torch.no_grad():
        expected = model(input_ids=SEQUENCES).logits
    torch.testing.assert_close(torch.cat([logits for _, logits in walk.logits()]), expected, rtol=1e-5, atol=1e-5)


def test_layers_that_share_an_input_sum_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, blocks=1))
    walk = BlockWalk(weights, SEQUENCES, device=CPU)
    squares = []
    square = Tensor.square

    def counted(x: Tensor) -> Tensor:
        squares.append(x.shape)
        return square(x)

    monkeypatch.setattr(Tensor, "square", counted)
    for _ in walk:
        walk.energies()
    assert len(squares) == 4 * 3  # inputs of q/k/v, o, gate/up and down, in each of three batches


@pytest.mark.parametrize(("length", "fits"), [(256, True), (257, False)])
def test_positions_are_the_limit(tmp_path: Path, length: int, fits: bool) -> None:
    weights = DenseWeights.open(tiny_llama(tmp_path, blocks=1))
    sequences = torch.zeros(1, length, dtype=torch.int64)
    if fits:
        BlockWalk(weights, sequences, device=CPU)
    else:
        with pytest.raises(
            ConfigError, match=r"--sequence-length 257 is above the 256 positions of .*--sequence-length 256"
        ):
            BlockWalk(weights, sequences, device=CPU)
