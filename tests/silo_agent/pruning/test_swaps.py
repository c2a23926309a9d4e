"""Swaps against a search of every exchange, and least squares after them."""

from decimal import Decimal
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.pruners import method, swaps
from silo_agent.second_order.refit import refit
from support.grams import layer, layer_error


def exchanges(keep: Tensor, run: int) -> list[Tensor]:
    """Every keep mask of a row that differs by one exchange within a run of inputs."""
    found = []
    for i, j in product(range(len(keep)), repeat=2):
        if keep[i] and not keep[j] and i // run == j // run:
            other = keep.clone()
            other[i], other[j] = False, True
            found.append(other)
    return found


def searched(row: Tensor, keep: Tensor, gram: Tensor, run: int) -> Tensor:
    """The best exchange, again and again."""
    while others := exchanges(keep, run):
        best = min(others, key=lambda other: layer_error(row, row * other, gram))
        if layer_error(row, row * best, gram) >= layer_error(row, row * keep, gram) * (1 - swaps.LEAST_GAIN):
            break
        keep = best
    return keep


@pytest.mark.parametrize("run", [4, 8, 24])
@pytest.mark.parametrize("at_once", [1, 1200, 1 << 18])
def test_the_best_swaps_until_none_is_left(run: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swaps, "PAIRS_AT_ONCE", at_once)
    weight, gram = layer(12, 24)
    keep = torch.rand(12, 24, generator=torch.Generator().manual_seed(2)) < 0.4
    better = swaps.swapped(weight, keep, gram, run)
    expected = torch.stack([searched(row, kept, gram, run) for row, kept in zip(weight, keep, strict=True)])
    assert torch.equal(better, expected)
    assert not torch.equal(better, keep)
    assert torch.equal(better.view(12, -1, run).sum(2), keep.view(12, -1, run).sum(2))


def test_more_swaps_never_raise_a_rows_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gram = layer(20, 96)
    keep = torch.rand(20, 96, generator=torch.Generator().manual_seed(2)) < 0.3
    errors = [[layer_error(row, row * kept, gram) for row, kept in zip(weight, keep, strict=True)]]
    for most in (1, 2, 5, 100):
        monkeypatch.setattr(swaps, "MOST_SWAPS", most)
        better = swaps.swapped(weight, keep, gram, 96)
        assert int((better & ~keep).sum(1).max()) <= most
        errors.append([layer_error(row, row * kept, gram) for row, kept in zip(weight, better, strict=True)])
    for before, after in pairwise(errors):
        assert all(a <= b for a, b in zip(after, before, strict=True))
    assert sum(errors[-1]) < 0.7 * sum(errors[0])


@pytest.mark.parametrize("target", [Decimal("0.5"), Decimal("0.8"), Pattern(2, 4)])
def test_each_of_its_steps_lowers_the_error(target: Decimal | Pattern) -> None:
    weight, gram = layer(48, 128)
    for group in (ComparisonGroup.ROW, ComparisonGroup.LAYER):
        wanda, _ = method(Pruner.WANDA).prune(weight, gram.diagonal(), Sparsity(target, group))
        keep, new = swaps.prune(weight, gram, Sparsity(target, group))
        errors = [layer_error(weight, each, gram) for each in (new, weight * keep, weight * wanda)]
        assert errors[0] < 0.8 * errors[1] < 0.8 * 0.95 * errors[2]
        assert torch.equal(keep.sum(1), wanda.sum(1))


def test_columns_are_only_refitted() -> None:
    weight, gram = layer(48, 128)
    sparsity = Sparsity(Decimal("0.5"), ComparisonGroup.COLUMN)
    keep, new = swaps.prune(weight, gram, sparsity)
    wanda, _ = method(Pruner.WANDA).prune(weight, gram.diagonal(), sparsity)
    assert torch.equal(keep, wanda)
    steadied = gram + 0.01 * gram.diagonal().mean() * torch.eye(128)
    assert torch.allclose(new, refit(weight, weight * keep, keep, steadied), atol=1e-6)
