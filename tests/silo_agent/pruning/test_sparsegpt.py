"""SparseGPT against a plain transcription of its authors' procedure, on layers and on whole models in memory."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.calibration import read_sequences
from silo_agent.pruning.prune import prune_blocks
from silo_agent.pruning.pruners import sparsegpt
from silo_agent.second_order.inverse_factor import inverse_factor
from support.grams import layer
from support.models import BLOCKS, family, in_memory, tiny_model, tokenizer, write_text

CPU = torch.device("cpu")


def published(w: Tensor, gram: Tensor, target: float | tuple[int, int], past: int = 0) -> tuple[Tensor, Tensor]:
    """Keep mask and weight. `target` is a sparsity ratio, or (kept, of).

    `past` 0 is the published threshold: `<=` the entry at int(size * ratio) of the sorted block, which prunes one more
    than int(size * ratio). -1 prunes that many.
    """
    w, gram = w.float().clone(), gram.clone()
    columns = w.shape[1]
    dead = gram.diagonal() == 0
    gram[dead, dead] = 1
    w[:, dead] = 0
    gram[range(columns), range(columns)] += 0.01 * gram.diagonal().mean()
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)
    pruned = torch.zeros_like(w, dtype=torch.bool)
    for a in range(0, columns, 128):
        b = min(a + 128, columns)
        block, mask, errors = w[:, a:b].clone(), pruned[:, a:b], torch.zeros_like(w[:, a:b])
        diagonal = u.diagonal()[a:b]
        if isinstance(target, float):
            score = block**2 / diagonal**2
            mask[:] = score <= score.flatten().sort().values[int(score.numel() * target) + past]
        for i in range(b - a):
            if isinstance(target, tuple) and i % target[1] == 0:
                score = block[:, i : i + target[1]] ** 2 / diagonal[i : i + target[1]] ** 2
                lowest = score.topk(target[1] - target[0], dim=1, largest=False).indices
                mask.scatter_(1, i + lowest, True)
            kept = block[:, i].masked_fill(mask[:, i], 0)
            errors[:, i] = (block[:, i] - kept) / diagonal[i]
            block[:, i:] -= errors[:, i, None] * u[a + i, a + i : b]
            w[:, a + i] = kept
        w[:, b:] -= errors @ u[a:b, b:]
    return ~pruned, w


def relative(new: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference over that of what is expected."""
    return float((new - expected).norm() / expected.norm())


LAYER = ComparisonGroup.LAYER


@pytest.mark.parametrize(("outputs", "inputs"), [(512, 512), (256, 320)])  # the last of 3 blocks has 64 columns
@pytest.mark.parametrize("target", [0.5, 0.75, (2, 4), (4, 8), (3, 32)])  # a whole number of weights in each block
def test_the_same_as_published(outputs: int, inputs: int, target: float | tuple[int, int]) -> None:
    weight, gram = layer(outputs, inputs)
    asked = Pattern(*target) if isinstance(target, tuple) else Decimal(str(target))
    keep, new = sparsegpt.prune(weight, gram, Sparsity(asked, LAYER))
    # With as many zeros as ours, the same:
    expected_keep, expected = published(weight, gram, target, past=-1)
    assert float((keep != expected_keep).float().mean()) <= 0.001
    assert relative(new, expected) < 1e-3
    # With the one more a block that the published threshold prunes, only that weight's row differs from there on:
    expected_keep, expected = published(weight, gram, target)
    assert float((keep != expected_keep).float().mean()) <= 0.001
    same = (keep == expected_keep).all(1)
    assert float(same.float().mean()) > 0.9
    assert relative(new[same], expected[same]) < 1e-3


def test_dead_inputs_are_pruned_first_and_else_left_alone() -> None:
    weight, gram = layer(64, 256, dead=20)
    dead = gram.diagonal() == 0
    keep, new = sparsegpt.prune(weight, gram, Sparsity(Decimal("0.5"), LAYER))
    expected_keep, expected = published(weight, gram, 0.5, past=-1)
    assert not keep[:, dead].any()
    assert float((keep != expected_keep).float().mean()) <= 0.001
    assert relative(new, expected) < 1e-3
    few = Sparsity(Decimal("0.01"), LAYER)
    keep, new = sparsegpt.prune(weight, gram, few)
    assert int((~keep).sum()) == few.prune_count(64 * 256) and keep[:, ~dead].all()
    assert torch.equal(new, weight * keep)


def test_the_output_is_nearer_than_without_the_update() -> None:
    weight, gram = layer(96, 256)
    for group in ComparisonGroup:
        keep, new = sparsegpt.prune(weight, gram, Sparsity(Decimal("0.5"), group))
        errors = [float(((each - weight) @ gram * (each - weight)).sum()) for each in (new, weight * keep)]
        assert errors[0] < 0.6 * errors[1]


def test_a_gram_matrix_that_needs_more_damping() -> None:
    weight, gram = layer(64, 128)
    values, vectors = torch.linalg.eigh(gram)
    values[0] = -0.05 * values.mean()  # as rounding a sum to fixed point may leave it
    rounded = (vectors * values) @ vectors.T
    factor = inverse_factor(rounded)
    damped = rounded + 0.1 * rounded.diagonal().mean() * torch.eye(128)
    assert factor is not None and torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor @ damped, torch.eye(128), atol=1e-3)
    keep, new = sparsegpt.prune(weight, rounded, Sparsity(Decimal("0.5"), LAYER))
    assert new.isfinite().all() and int((~keep).sum()) == 64 * 64


@pytest.mark.clause("14.2.1")
@pytest.mark.parametrize("spoil", [lambda gram: -gram, lambda gram: gram.fill_(3e38), lambda gram: gram * 0])
def test_a_gram_matrix_that_no_damping_helps_leaves_magnitude(spoil: Callable[[Tensor], Tensor]) -> None:
    weight, gram = layer(64, 128)
    keep, new = sparsegpt.prune(weight, spoil(gram), Sparsity(Decimal("0.5"), LAYER))
    by_size = weight.abs() > weight.abs().flatten().sort().values[weight.numel() // 2 - 1]
    assert torch.equal(keep, by_size)
    assert torch.equal(new, weight * by_size)


def published_model(
    folder: Path, blocks: str, sequences: Tensor, target: float | tuple[int, int], agents: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Block by block: the Gram matrices of all layers from the model pruned so far, then each layer pruned.

    A pruned block is given the agent's weights. Rounding, which differs with the processor's matrix kernels, decides
    which of two weights with nearly the same score is kept, and such a choice would move all weights of later blocks.
    """
    model = in_memory(folder)
    expected = {}
    for index, block in enumerate(model.get_submodule(blocks)):
        layers = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
        # All as the pruner sees them, [d_out, d_in]: a view of what a Conv1D stores the other way.
        weights = {
            n: each.weight.data.T if isinstance(each, Conv1D) else each.weight.data for n, each in layers.items()
        }
        grams = {name: torch.zeros(w.shape[1], w.shape[1]) for name, w in weights.items()}

        def hook(name: str, grams: dict[str, Tensor] = grams) -> Any:
            def add(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
                x = inputs[0].reshape(-1, inputs[0].shape[-1])
                grams[name] += x.T @ x

            return add

        handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
        with torch.no_grad():
            for sequence in sequences:
                model(input_ids=sequence[None])
        for handle in handles:
            handle.remove()
        for name, w in weights.items():
            full = f"{blocks}.{index}.{name}.weight"
            expected[full] = published(w, grams[name], target, past=-1)
            layers[name].weight.data[:] = agents[full]
    return expected


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "phi3"])
@pytest.mark.parametrize("target", [0.5, (2, 4)])
def test_the_agent_is_sparsegpt(tmp_path: Path, name: str, target: float | tuple[int, int]) -> None:
    sizes = {"n_inner": 136} if name == "gpt2" else {"ffn_dim": 136} if name == "opt" else {"intermediate_size": 136}
    folder = tiny_model(tmp_path / "model", family(name, **sizes), seed=2)
    file = write_text(tmp_path / "calibration.txt", 4000, seed=5)
    sequences, _ = read_sequences(file, tokenizer(), samples=8, sequence_length=64)
    weights = DenseWeights.open(folder)
    sparsity = Sparsity(Pattern(*target) if isinstance(target, tuple) else Decimal(str(target)), LAYER)
    blocks = prune_blocks(
        weights,
        sequences,
        pruner=Pruner.SPARSEGPT,
        sparsity=lambda _: sparsity,
        device=CPU,
        progress=lambda *_: None,
    )
    agents, keeps = {}, {}
    for pruned in blocks:
        assert pruned.weight is not None and torch.equal(pruned.weight != 0, pruned.keep)
        agents[pruned.name], keeps[pruned.name] = pruned.weight, pruned.keep
    expected = published_model(folder, BLOCKS[name], sequences, target, agents)
    assert list(agents) == list(weights.prunable) == list(expected)
    differing = same_rows = 0
    for weight, (expected_keep, expected_weight) in expected.items():
        keep, new = (t.T if name == "gpt2" else t for t in (keeps[weight], agents[weight]))
        same = (keep == expected_keep).all(1)  # an exchanged choice moves its row's later weights, and no other row
        assert relative(new[same], expected_weight[same]) < 1e-3
        differing += int((keep != expected_keep).sum())
        same_rows += int(same.sum())
    assert differing <= 0.001 * sum(keep.numel() for keep in keeps.values())
    assert same_rows >= 0.98 * sum(len(keep) for keep, _ in expected.values())
