"""A silo's keep masks, against a plain transcription of Wanda on the whole model in memory."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crypto.errors import ConfigError, ModelError, OutputError
from crypto.names import ComparisonGroup
from models import BLOCKS, family, in_memory, tiny_llama, tiny_model, tokenizer, write_text
from silo_agent import activations
from silo_agent.calibration import read_sequences
from silo_agent.dense_weights import DenseWeights
from silo_agent.prune import keep_masks, write_keep_masks

CPU = torch.device("cpu")


def wanda(folder: Path, blocks: str, sequences: Tensor, ratio: float) -> dict[str, Tensor]:
    """Wanda as its authors run it: a running mean of squared input norms over sequences, the lowest of a stable sort
    in each row set to zero, the next block's statistics from the model pruned so far."""
    model = in_memory(folder)
    keep = {}
    for index, block in enumerate(model.get_submodule(blocks)):
        layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        scaler = {name: torch.zeros(layer.in_features) for name, layer in layers.items()}
        count = dict.fromkeys(layers, 0)

        def hook(name: str, scaler: dict[str, Tensor] = scaler, count: dict[str, int] = count) -> Any:
            def add(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
                norm = inputs[0].reshape(-1, inputs[0].shape[-1]).T.norm(p=2, dim=1) ** 2
                scaler[name] = scaler[name] * (count[name] / (count[name] + 1)) + norm / (count[name] + 1)
                count[name] += 1

            return add

        handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
        with torch.no_grad():
            for sequence in sequences:
                model(input_ids=sequence[None])
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            metric = layer.weight.data.abs() * scaler[name].sqrt()
            lowest = metric.sort(dim=1, stable=True).indices[:, : int(metric.shape[1] * ratio)]
            mask = torch.ones_like(metric, dtype=torch.bool).scatter(1, lowest, False)
            layer.weight.data[~mask] = 0
            keep[f"{blocks}.{index}.{name}.weight"] = mask
    return keep


def agent(folder: Path, sequences: Tensor, ratio: str, group: ComparisonGroup) -> dict[str, Tensor]:
    done: list[tuple[int, int]] = []
    weights = DenseWeights.open(folder)
    masks = keep_masks(
        weights,
        sequences,
        sparsity_ratio=Decimal(ratio),
        group=group,
        device=CPU,
        progress=lambda *step: done.append(step),
    )
    keep = dict(masks)
    assert tuple(keep) == weights.prunable
    assert done == [(i + 1, len(weights.blocks)) for i in range(len(weights.blocks))]
    return keep


@pytest.fixture
def sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(activations, "TOKENS_PER_BATCH", 200)  # batches of 3, 3 and 1 sequences
    file = write_text(tmp_path / "calibration.txt", 4000, seed=5)
    return read_sequences(file, tokenizer(), samples=7, sequence_length=64)[0]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("ratio", ["0.5", "0.7"])
def test_the_agent_is_wanda(tmp_path: Path, sequences: Tensor, name: str, ratio: str) -> None:
    folder = tiny_model(tmp_path / "model", family(name, num_hidden_layers=3), seed=2)
    expected = wanda(folder, BLOCKS[name], sequences, float(ratio))
    keep = agent(folder, sequences, ratio, ComparisonGroup.ROW)
    assert keep.keys() == expected.keys()
    assert sum(int((keep[name] != expected[name]).sum()) for name in expected) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_agent_is_wanda_on_shards(tmp_path: Path, sequences: Tensor, dtype: torch.dtype) -> None:
    folder = tiny_llama(tmp_path / "model", blocks=3, hidden=48, dtype=dtype, shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 3
    expected = wanda(folder, "model.layers", sequences, 0.5)
    keep = agent(folder, sequences, "0.5", ComparisonGroup.ROW)
    assert all(torch.equal(keep[name], mask) for name, mask in expected.items())


@pytest.mark.parametrize("group", ComparisonGroup)
def test_every_group_loses_k(tmp_path: Path, sequences: Tensor, group: ComparisonGroup) -> None:
    for mask in agent(tiny_llama(tmp_path / "model"), sequences, "0.6", group).values():
        zeros = {
            ComparisonGroup.LAYER: (~mask).sum()[None],
            ComparisonGroup.ROW: (~mask).sum(1),
            ComparisonGroup.COLUMN: (~mask).sum(0),
        }[group]
        assert set(zeros.tolist()) == {mask.numel() // len(zeros) * 6 // 10}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, sequences: Tensor, bad: float) -> None:
    folder, name = tiny_llama(tmp_path / "model"), "model.layers.1.mlp.up_proj.weight"
    tensors = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    tensors[name][3, 4] = bad
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=f"{name}: weights or activations are not finite"):
        agent(folder, sequences, "0.5", ComparisonGroup.ROW)


def test_refuses_long_sequences_and_odd_ratios(tmp_path: Path, sequences: Tensor) -> None:
    folder = tiny_llama(tmp_path / "model")
    with pytest.raises(ConfigError, match="--sequence-length 257"):
        agent(folder, torch.zeros(1, 257, dtype=torch.int64), "0.5", ComparisonGroup.ROW)
    with pytest.raises(ConfigError, match=r"--sparsity-ratio 1\.5"):
        agent(folder, sequences, "1.5", ComparisonGroup.ROW)


def masks(fail: bool = False) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    yield "b.weight", torch.rand(5, 7, generator=generator) < 0.5
    if fail:
        raise ModelError("broken in the middle")
    yield "a.weight", torch.rand(7, 3, generator=generator).T < 0.5  # not contiguous


def test_written_keep_masks_load_with_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "keep_mask.safetensors"
    write_keep_masks(path, masks())
    loaded, expected = load_file(path), dict(masks())
    assert loaded.keys() == expected.keys()
    assert all(value.dtype == torch.bool and torch.equal(value, expected[name]) for name, value in loaded.items())
    assert [file.name for file in tmp_path.iterdir()] == ["keep_mask.safetensors"]


def test_an_existing_file_is_kept_and_no_mask_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "keep_mask.safetensors"
    path.write_bytes(b"mine")
    untouched = masks(fail=True)
    with pytest.raises(OutputError, match=r"keep_mask.safetensors: exists"):
        write_keep_masks(path, untouched)
    assert path.read_bytes() == b"mine" and next(untouched)[0] == "b.weight"


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="broken in the middle"):
        write_keep_masks(tmp_path / "keep_mask.safetensors", masks(fail=True))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/keep_mask.safetensors: cannot be written: No such file"):
        write_keep_masks(tmp_path / "nowhere" / "keep_mask.safetensors", masks())
