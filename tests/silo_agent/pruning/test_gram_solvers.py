"""Pruners that solve for kept weights from a Gram matrix: dead inputs, matrices that are none, and the demo's model."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.model.calibration import read_sequences
from silo_agent.pruning.pruners import method
from silo_agent.second_order.damped_gram import damped
from support.grams import layer, layer_error

LAYER = ComparisonGroup.LAYER
HALF = Sparsity(Decimal("0.5"), LAYER)
SOLVERS = (Pruner.ADMM, Pruner.ALPS, Pruner.SWAPS)
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("pruner", SOLVERS)
def test_dead_inputs_are_pruned_first_and_else_left_alone(pruner: Pruner) -> None:
    weight, gram = layer(64, 256, dead=20)
    dead = gram.diagonal() == 0
    keep, new = method(pruner).prune(weight, gram, HALF)
    assert not keep[:, dead].any()
    few = Sparsity(Decimal("0.01"), LAYER)
    keep, new = method(pruner).prune(weight, gram, few)
    assert int((~keep).sum()) == few.prune_count(64 * 256) and keep[:, ~dead].all()
    assert new is not None and torch.equal(new[:, dead], (weight * keep)[:, dead])
    assert torch.allclose(new[:, ~dead], weight[:, ~dead], rtol=1e-4)


@pytest.mark.parametrize("pruner", SOLVERS)
@pytest.mark.parametrize("target", [Decimal("0.5"), Pattern(2, 4)])
def test_scales_of_inputs_do_not_matter_beyond_what_they_weigh(pruner: Pruner, target: Decimal | Pattern) -> None:
    """Twice the text, or another unit, is the same pruning; so it is again, and from a copy of the Gram matrix."""
    weight, gram = layer(32, 64)
    keep, new = method(pruner).prune(weight, gram, Sparsity(target, LAYER))
    for scaled in (gram, gram.clone(), gram * 2.0**40, gram * 2.0**-60):
        again, new_again = method(pruner).prune(weight, scaled, Sparsity(target, LAYER))
        assert torch.equal(again, keep)
        assert new is not None and new_again is not None and torch.equal(new_again, new)


@pytest.mark.parametrize("pruner", SOLVERS)
def test_the_output_is_nearer_than_without_the_update(pruner: Pruner) -> None:
    weight, gram = layer(96, 256)
    for group in ComparisonGroup:
        keep, new = method(pruner).prune(weight, gram, Sparsity(Decimal("0.5"), group))
        assert new is not None
        assert layer_error(weight, new, gram) < 0.6 * layer_error(weight, weight * keep, gram)


@pytest.mark.parametrize("pruner", SOLVERS)
@pytest.mark.parametrize("lowest", [-0.05, -0.5])
def test_a_gram_matrix_that_needs_more_damping(pruner: Pruner, lowest: float) -> None:
    """As rounding a sum to fixed point may leave it."""
    weight, gram = layer(64, 128)
    values, vectors = torch.linalg.eigh(gram)
    values[0] = lowest * values.mean()
    rounded = (vectors * values) @ vectors.T
    keep, new = method(pruner).prune(weight, rounded, HALF)
    assert new is not None and new.isfinite().all() and int((~keep).sum()) == 64 * 64
    assert layer_error(weight, new, gram) < layer_error(weight, weight * keep, gram)


def test_damping_is_the_first_that_helps() -> None:
    _, gram = layer(64, 128)
    values, vectors = torch.linalg.eigh(gram)
    values[0] = -0.05 * values.mean()
    rounded = (vectors * values) @ vectors.T
    expected = rounded + 0.1 * rounded.diagonal().mean() * torch.eye(128)
    found = damped(rounded, 0.01)
    assert found is not None and torch.allclose(found, expected)


@pytest.mark.parametrize("beyond", [torch.zeros(8, 8), -torch.eye(8), torch.full((32, 32), 3e38)])
def test_no_damping_helps_what_is_negative_or_beyond_float32(beyond: Tensor) -> None:
    assert damped(beyond, 0.01) is None


@pytest.mark.clause("14.2.1")
@pytest.mark.parametrize("pruner", SOLVERS)
@pytest.mark.parametrize("spoil", [lambda gram: -gram, lambda gram: gram - 1e3 * gram.max(), lambda gram: gram * 0])
def test_a_gram_matrix_that_no_damping_helps_leaves_magnitude(
    pruner: Pruner, spoil: Callable[[Tensor], Tensor]
) -> None:
    weight, gram = layer(64, 128)
    keep, new = method(pruner).prune(weight, spoil(gram), HALF)
    by_size = weight.abs() > weight.abs().flatten().sort().values[weight.numel() // 2 - 1]
    assert torch.equal(keep, by_size)
    assert new is not None and torch.equal(new, weight * by_size)


@pytest.mark.clause("14.2.1")
@pytest.mark.parametrize("pruner", SOLVERS)
@pytest.mark.parametrize("value", [3e38, 1e-45, -1e-45, 1e30])
@pytest.mark.parametrize("target", [Decimal("0.5"), Pattern(2, 4)])
def test_no_gram_matrix_is_refused(pruner: Pruner, value: float, target: Decimal | Pattern) -> None:
    """All entries the same, and off the diagonal alone, and against inputs of a usual strength."""
    weight, gram = layer(16, 32)
    alike = torch.full_like(gram, value)
    mixed = gram.clone()
    mixed[:3] = mixed[:, :3] = value
    for matrix in (alike, alike.fill_diagonal_(0), alike.triu().triu().fill_diagonal_(value), mixed):
        keep, new = method(pruner).prune(weight, matrix, Sparsity(target, LAYER))
        assert int((~keep).sum()) == 16 * 16 and new is not None and not new[~keep].any()


@pytest.mark.slow
@pytest.mark.parametrize("ratio", ["0.5", "0.7", "0.8"])
def test_the_solvers_leave_less_error_than_sparsegpt_in_every_matrix_of_the_demo(tmp_path: Path, ratio: str) -> None:
    weights = DenseWeights.open(ROOT / "bench/demo/model")
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "docs/glossary.md").read_text())
    sequences, _ = read_sequences(text, weights.tokenizer, samples=16, sequence_length=128)
    walk = BlockWalk(weights, sequences, device=torch.device("cpu"))
    sparsity = Sparsity(Decimal(ratio), LAYER)
    for block in walk:
        for name, gram in walk.grams().items():
            weight = weights.tensor(name).float()
            errors = {}
            for pruner in (Pruner.SPARSEGPT, Pruner.ADMM, Pruner.ALPS):
                _, new = method(pruner).prune(weight, gram, sparsity)
                assert new is not None
                errors[pruner] = layer_error(weight, new, gram)
            assert errors[Pruner.ADMM] < 0.8 * errors[Pruner.SPARSEGPT], name
            assert errors[Pruner.ALPS] < errors[Pruner.ADMM], name
        if block is not weights.blocks[-1]:
            walk.advance({})
