"""A silo's pruning, against a plain transcription of Wanda on the whole model in memory."""

import logging
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from crypto.errors import ConfigError, InputError, ModelError, OutputError
from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.alpha_pruning import alpha_ratios
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern, Sparsity, prune_count
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.cli import cli
from silo_agent.model import activations, batches
from silo_agent.model.calibration import read_sequences
from silo_agent.pruning import prune
from silo_agent.pruning.prune import Pruned, prune_blocks, prune_weight, write_keep_masks, write_pruned
from silo_agent.pruning.spectral import block_alphas
from support.models import BLOCKS, family, in_memory, tiny_llama, tiny_model, tokenizer, write_text

CPU = torch.device("cpu")


def wanda(folder: Path, blocks: str, sequences: Tensor, target: float | tuple[int, int]) -> dict[str, Tensor]:
    """Wanda as its authors run it: a running mean of squared input norms over sequences, the lowest of a stable sort
    in each row (or of every m inputs) set to zero, the next block's statistics from the model pruned so far.

    `target` is a sparsity ratio, or (kept, of).
    """
    model = in_memory(folder)
    keep = {}
    for index, block in enumerate(model.get_submodule(blocks)):
        layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}
        weights = {
            n: each.weight.data.T if isinstance(each, Conv1D) else each.weight.data for n, each in layers.items()
        }
        scaler = {name: torch.zeros(weight.shape[1]) for name, weight in weights.items()}
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
        for name, weight in weights.items():
            metric = weight.abs() * scaler[name].sqrt()
            mask = torch.ones_like(metric, dtype=torch.bool)
            if isinstance(target, float):
                mask.scatter_(1, metric.sort(dim=1, stable=True).indices[:, : int(metric.shape[1] * target)], False)
            else:
                kept, of = target
                for start in range(0, metric.shape[1], of):
                    lowest = metric[:, start : start + of].topk(of - kept, dim=1, largest=False).indices
                    mask.scatter_(1, start + lowest, False)
            weight[~mask] = 0
            stored = mask.T if isinstance(layers[name], Conv1D) else mask
            keep[f"{blocks}.{index}.{name}.weight"] = stored
    return keep


def agent(
    folder: Path,
    sequences: Tensor,
    target: Decimal | Pattern,
    group: ComparisonGroup = ComparisonGroup.ROW,
    pruner: Pruner = Pruner.WANDA,
) -> dict[str, Pruned]:
    done: list[tuple[int, int]] = []
    weights = DenseWeights.open(folder)
    pruned = prune_blocks(
        weights,
        sequences,
        pruner=pruner,
        sparsity=lambda _: Sparsity(target, group),
        device=CPU,
        progress=lambda *step: done.append(step),
    )
    found = {each.name: each for each in pruned}
    assert tuple(found) == weights.prunable
    assert done == [(i + 1, len(weights.blocks)) for i in range(len(weights.blocks))]
    return found


@pytest.fixture
def sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 200)  # batches of 3, 3 and 1 sequences
    file = write_text(tmp_path / "calibration.txt", 4000, seed=5)
    return read_sequences(file, tokenizer(), samples=7, sequence_length=64)[0]


PLAIN = [name for name in BLOCKS if name not in ("mixtral", "qwen3_moe")]  # experts are no modules


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("target", [0.5, 0.7, (2, 4), (4, 8)])
def test_the_agent_is_wanda(tmp_path: Path, sequences: Tensor, name: str, target: float | tuple[int, int]) -> None:
    folder = tiny_model(tmp_path / "model", family(name, num_hidden_layers=3), seed=2)
    expected = wanda(folder, BLOCKS[name], sequences, target)
    pruned = agent(folder, sequences, Pattern(*target) if isinstance(target, tuple) else Decimal(str(target)))
    assert pruned.keys() == expected.keys()
    assert sum(int((pruned[name].keep != expected[name]).sum()) for name in expected) == 0
    assert all(each.weight is None and each.changed is each.keep for each in pruned.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_agent_is_wanda_on_shards(tmp_path: Path, sequences: Tensor, dtype: torch.dtype) -> None:
    folder = tiny_llama(tmp_path / "model", blocks=3, hidden=48, dtype=dtype, shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 3
    expected = wanda(folder, "model.layers", sequences, 0.5)
    pruned = agent(folder, sequences, Decimal("0.5"))
    assert all(torch.equal(pruned[name].keep, mask) for name, mask in expected.items())


@pytest.mark.parametrize("name", ["gpt2", "qwen3_moe"])
@pytest.mark.parametrize("pruner", Pruner)
@pytest.mark.parametrize("group", ComparisonGroup)
def test_every_group_loses_k(
    tmp_path: Path, sequences: Tensor, name: str, pruner: Pruner, group: ComparisonGroup
) -> None:
    folder = tiny_model(tmp_path / "model", family(name))
    weights = DenseWeights.open(folder)
    for each in agent(folder, sequences, Decimal("0.6"), group, pruner).values():
        stored = weights.tensor(each.name)
        assert each.keep.shape == stored.shape and each.keep.is_contiguous()
        keep = each.keep.T if weights.input_first(each.name) else each.keep
        zeros = {
            ComparisonGroup.LAYER: (~keep).sum()[None],
            ComparisonGroup.ROW: (~keep).sum(1),
            ComparisonGroup.COLUMN: (~keep).sum(0),
        }[group]
        assert set(zeros.tolist()) == {keep.numel() // len(zeros) * 6 // 10}
        if each.weight is not None:
            assert each.weight.dtype == stored.dtype and torch.equal(each.weight != 0, each.keep)


def test_magnitude_runs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "BlockWalk", None)
    folder = tiny_model(tmp_path / "model", family("gpt2"))
    weights = DenseWeights.open(folder)
    nothing = torch.empty(0, 0, dtype=torch.int64)
    for name, each in agent(folder, nothing, Decimal("0.5"), ComparisonGroup.LAYER, Pruner.MAGNITUDE).items():
        size = weights.tensor(name).abs()
        assert torch.equal(each.keep, size > size.flatten().sort().values[size.numel() // 2 - 1])


def test_a_block_without_a_sparsity_stays_dense(tmp_path: Path, sequences: Tensor) -> None:
    """And the next block sees what it gives: the same as where that block loses nothing."""
    weights = DenseWeights.open(tiny_llama(tmp_path / "model", blocks=3))
    asked = [Sparsity(Decimal(ratio), ComparisonGroup.ROW) for ratio in ("0.7", "0", "0.4")]

    def keep(of: list[Sparsity | None]) -> dict[str, Tensor]:
        pruned = prune_blocks(
            weights,
            sequences,
            pruner=Pruner.WANDA,
            sparsity=lambda block: of[block.index],
            device=CPU,
            progress=lambda *_: None,
        )
        return {each.name: each.keep for each in pruned}

    left, zero = keep([asked[0], None, asked[2]]), keep(list(asked))
    assert list(left) == [name for name in weights.prunable if ".layers.1." not in name]
    assert all(torch.equal(mask, zero[name]) for name, mask in left.items())


def test_the_next_block_sees_new_weights_as_they_are_stored(
    tmp_path: Path, sequences: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}
    advance = activations.BlockWalk.advance

    def watched(walk: activations.BlockWalk, changed: dict[str, Tensor]) -> None:
        seen.update(changed)
        advance(walk, changed)

    monkeypatch.setattr(activations.BlockWalk, "advance", watched)
    folder = tiny_model(tmp_path / "model", family("gpt2"), dtype=torch.bfloat16)
    pruned = agent(folder, sequences, Decimal("0.5"), ComparisonGroup.LAYER, Pruner.SPARSEGPT)
    first = [name for name in pruned if ".h.0." in name]
    assert list(seen) == first
    for name in first:
        assert seen[name].dtype == torch.bfloat16 and seen[name] is pruned[name].weight


def test_experts_that_few_tokens_reach_are_ranked_by_magnitude_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_model(tmp_path / "model", family("qwen3_moe", num_hidden_layers=1))
    weights = DenseWeights.open(folder)
    sequences = torch.arange(3, 6)[None]  # 3 tokens reach at most 6 of 12 experts
    with caplog.at_level(logging.WARNING):
        wanda = agent(folder, sequences, Decimal("0.5"))
        moved = agent(folder, sequences, Decimal("0.5"), ComparisonGroup.LAYER, Pruner.SPARSEGPT)
    warned = {expert for expert in range(12) if f"mlp.experts.{expert} (0)" in caplog.text}
    assert 6 <= len(warned) < 12
    assert "parts saw fewer than 128 of 3 calibration tokens: model.layers.0.mlp.experts." in caplog.text
    for expert in range(12):
        name = f"model.layers.0.mlp.experts.{expert}.down_proj.weight"
        size, new = weights.tensor(name).abs(), moved[name].weight
        assert new is not None
        by_row = size > size.sort(1).values[:, size.shape[1] // 2 - 1 : size.shape[1] // 2]
        by_layer = size > size.flatten().sort().values[size.numel() // 2 - 1]
        assert torch.equal(wanda[name].keep, by_row) == (expert in warned)
        assert torch.equal(new, weights.tensor(name) * by_layer) == (expert in warned)
    caplog.clear()
    agent(tiny_llama(tmp_path / "dense"), sequences, Decimal("0.5"))
    assert not caplog.records  # few tokens, but no fewer than elsewhere


@pytest.mark.parametrize("pruner", Pruner)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, sequences: Tensor, pruner: Pruner, bad: float) -> None:
    folder, name = tiny_llama(tmp_path / "model"), "model.layers.1.mlp.up_proj.weight"
    tensors = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    tensors[name][3, 4] = bad
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=f"{name}: weights are not finite"):
        agent(folder, sequences, Decimal("0.5"), pruner=pruner)


@pytest.mark.clause("14.2.1")
def test_a_new_weight_that_does_not_fit_stays_dense(tmp_path: Path) -> None:
    """What one input gave, another that is always like it takes over: twice as much is beyond float16."""
    folder, name = (
        tiny_model(tmp_path / "model", family("gpt2"), dtype=torch.float16),
        "transformer.h.1.mlp.c_proj.weight",
    )
    tensors = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    tensors[name][:] = 60_000
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    alike = torch.full((72, 72), 0.999) + 0.001 * torch.eye(72)
    half = Sparsity(Decimal("0.5"), ComparisonGroup.ROW)
    pruned = prune_weight(DenseWeights.open(folder), name, alike, Pruner.SPARSEGPT, half, CPU)
    assert pruned.weight is not None and pruned.weight.dtype == torch.float16
    assert not pruned.weight[~pruned.keep].any()
    assert pruned.weight.isfinite().all()
    assert (pruned.weight == 60_000).any()


@pytest.mark.clause("14.2.1")
@pytest.mark.parametrize("pruner", Pruner)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_activations_that_are_not_finite_do_not_end_in_a_refusal(
    tmp_path: Path, sequences: Tensor, pruner: Pruner, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_llama(tmp_path / "model")
    tensors = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    tensors["model.embed_tokens.weight"][int(sequences[0, 5])] = bad
    tensors["model.layers.0.input_layernorm.weight"][:] = bad
    save_file(tensors, folder / "model.safetensors")
    for pruned in agent(folder, sequences, Decimal("0.5"), pruner=pruner).values():
        assert int((~pruned.keep).sum()) == pruned.keep.numel() // 2
        assert pruned.weight is None or pruned.weight.isfinite().all()
    reads_text = pruner is not Pruner.MAGNITUDE
    assert ("activations are not finite" in caplog.text) == reads_text


def test_refuses_long_sequences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sequence-length 257"):
        agent(tiny_llama(tmp_path / "model"), torch.zeros(1, 257, dtype=torch.int64), Decimal("0.5"))


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


def pruned(*, new: bool) -> Iterator[Pruned]:
    for name, mask in masks():
        dtype = torch.bfloat16 if name == "a.weight" else torch.float32
        yield Pruned(name, mask, mask.to(dtype) * 3 if new else None)


def test_new_weights_are_written_beside_the_keep_masks(tmp_path: Path) -> None:
    keep_masks, weights = tmp_path / "keep_mask.safetensors", tmp_path / "weights.safetensors"
    write_pruned(keep_masks, weights, pruned(new=True))
    kept, loaded = load_file(keep_masks), load_file(weights)
    for each in pruned(new=True):
        assert each.weight is not None and torch.equal(kept[each.name], each.keep)
        assert loaded[each.name].dtype == each.weight.dtype and torch.equal(loaded[each.name], each.weight)
    assert set(tmp_path.iterdir()) == {keep_masks, weights}
    with pytest.raises(OutputError, match=r"keep_mask.safetensors: exists"):
        write_pruned(keep_masks, weights, pruned(new=True))


def test_without_new_weights_there_is_no_such_file(tmp_path: Path) -> None:
    write_pruned(tmp_path / "keep_mask.safetensors", tmp_path / "weights.safetensors", pruned(new=False))
    assert [file.name for file in tmp_path.iterdir()] == ["keep_mask.safetensors"]


def command(folder: Path, *options: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`silo-agent prune`: the keep masks and weights that it writes, or what it raises."""
    out, weights = folder.parent / "keep_mask.safetensors", folder.parent / "weights.safetensors"
    out.unlink(missing_ok=True)
    weights.unlink(missing_ok=True)
    arguments = ["prune", "--model", folder, "--out", out, "--save-weights", weights, *options]
    result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0
    return load_file(out), load_file(weights)


def text(tmp_path: Path) -> tuple[str, ...]:
    file = write_text(tmp_path / "calibration.txt", 4000, seed=5)
    return "--calibration", str(file), "--samples", "3", "--sequence-length", "32"


@pytest.mark.parametrize("pruner", Pruner)
def test_the_command(tmp_path: Path, pruner: Pruner) -> None:
    """Without a group it is the pruner's own; weights are dense ones zeroed where the pruner changes none."""
    folder = tiny_model(tmp_path / "model", family("gpt2"), dtype=torch.bfloat16)
    calibration = () if pruner is Pruner.MAGNITUDE else text(tmp_path)
    keep, new = command(folder, "--pruner", pruner, "--sparsity-ratio", "0.75", *calibration)
    weights = DenseWeights.open(folder)
    assert set(keep) == set(new) == set(weights.prunable)
    for name in keep:
        assert int((~keep[name]).sum()) == keep[name].numel() * 3 // 4
        even = set((~keep[name]).sum(0).tolist()) == {keep[name].shape[0] * 3 // 4}
        assert even == (PRUNERS[pruner].own_group is ComparisonGroup.ROW)
        assert new[name].dtype == torch.bfloat16 and torch.equal(new[name] != 0, keep[name])
        dense = weights.tensor(name).masked_fill(~keep[name], 0)
        assert torch.equal(new[name], dense) != PRUNERS[pruner].updates_weights


def test_the_command_with_a_pattern(tmp_path: Path) -> None:
    keep, _ = command(tiny_llama(tmp_path / "model"), "--pattern", "4:8", *text(tmp_path))
    assert all(set(each.view(-1, 8).sum(1).tolist()) == {4} for each in keep.values())


def test_the_command_with_owl(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", blocks=4)
    keep, _ = command(folder, "--allocation", "owl", "--pruner", "magnitude", *text(tmp_path))
    zeros = [sum(int((~m).sum()) for n, m in keep.items() if f".{block}." in n) for block in range(4)]
    assert len(set(zeros)) > 1
    assert abs(sum(zeros) / sum(mask.numel() for mask in keep.values()) - 0.5) < 0.001


def test_the_command_with_alpha_needs_no_text(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", blocks=4)
    keep, _ = command(folder, "--allocation", "alpha", "--pruner", "magnitude", "--sparsity-ratio", "0.6")
    weights = DenseWeights.open(folder)
    sizes = [sum(weights.shape(name).numel() for name in block.prunable) for block in weights.blocks]
    ratios = alpha_ratios(block_alphas(weights, device=torch.device("cpu")), sizes, Decimal("0.6"))
    assert len({*ratios}) > 1
    for block, ratio in zip(weights.blocks, ratios, strict=True):
        assert all(int((~keep[name]).sum()) == prune_count(ratio, keep[name].numel()) for name in block.prunable)


@pytest.mark.parametrize("pruner", [Pruner.MAGNITUDE, Pruner.WANDA, Pruner.SPARSEGPT])
def test_the_command_quantises(tmp_path: Path, pruner: Pruner) -> None:
    """The folder has the weights that were saved; every row has 16 of them at most; pruned ones are 0."""
    folder = tiny_llama(tmp_path / "model", blocks=2, dtype=torch.float32)
    given = ("--pruner", pruner, "--quantise", "4", "--save-quantised", str(tmp_path / "quantised"), *text(tmp_path))
    keep, new = command(folder, *given)
    for name, mask in keep.items():
        assert int((~mask).sum()) == mask.numel() // 2
        assert (new[name][~mask] == 0).all()
        assert all(len(row.unique()) <= 16 for row in new[name])
    packed: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "quantised")
    plain: Any = AutoModelForCausalLM.from_pretrained(folder)
    plain.load_state_dict(new, strict=False)
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(packed(tokens).logits, plain(tokens).logits, atol=1e-5, rtol=1e-5)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("model", "quantised", "calibration.txt", "keep_mask.safetensors", "weights.safetensors")
    }


def test_gpt2_is_not_quantised(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", family("gpt2"))
    with pytest.raises(ModelError, match="stored input first"):
        command(folder, "--quantise", "8", *text(tmp_path))


def test_the_command_on_text_of_the_model(tmp_path: Path) -> None:
    keep, _ = command(
        tiny_llama(tmp_path / "model"), "--calibration", "self", "--samples", "2", "--sequence-length", "16"
    )
    assert all(int((~mask).sum()) == mask.numel() // 2 for mask in keep.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pattern", "2:4", "--sparsity-ratio", "0.5"), "--pattern"),
        (("--pattern", "2:4", "--comparison-group", "row"), "--pattern"),
        (("--pattern", "2:4", "--allocation", "owl"), "--pattern"),
        (("--pattern", "2:4", "--allocation", "alpha"), "--pattern"),
        (("--pattern", "4:2"), "pattern: '4:2'"),
        (("--sparsity-ratio", "1"), "sparsity ratio: '1'"),
        (("--pruner", "magnitude", "--quantise", "8"), "--calibration is missing, which --quantise needs"),
        (("--save-quantised", "folder"), "--save-quantised needs --quantise"),
        (("--pruner", "sparsegpt"), "--calibration is missing, which sparsegpt needs"),
        (("--pruner", "magnitude", "--allocation", "owl"), "--calibration is missing, which owl needs"),
    ],
)
def test_the_command_refuses(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command(tiny_llama(tmp_path / "model"), *options)
