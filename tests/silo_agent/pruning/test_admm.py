"""ADMM against a plain transcription of its authors' procedure."""

from decimal import Decimal

import pytest
import torch
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.pruners import admm
from support.grams import layer, layer_error

LAYER, ROW = ComparisonGroup.LAYER, ComparisonGroup.ROW


def lowest(score: Tensor, count: int) -> Tensor:
    """Where the `count` lowest entries of each column are."""
    found = torch.zeros_like(score, dtype=torch.bool)
    return found.scatter_(0, score.argsort(0)[:count], torch.ones_like(found))


def published(weight: Tensor, gram: Tensor, target: float | tuple[int, int], group: ComparisonGroup = LAYER) -> Tensor:
    """New weights, in float64, inputs first as in the published code. `target` is a ratio, or (kept, of)."""
    norm = gram.double().diagonal().sqrt()
    a = gram.double() / norm / norm[:, None]
    dense = (weight.double() * norm).T
    a += 0.1 * a.diagonal().mean() * torch.eye(len(a))
    right, inverse = a @ dense, (a + torch.eye(len(a))).inverse()
    w, u = dense, torch.zeros_like(dense)
    for t in range(20):
        score = (w + u).abs()
        ratio = target if isinstance(target, float) else 1 - target[0] / target[1]
        ratio -= ratio * (1 - (t + 1) / 15) ** 3
        if t < 15 and isinstance(target, tuple):
            runs = score.T.reshape(-1, target[1])  # of consecutive inputs of an output
            spared = ~lowest(runs.T, target[1] - target[0]).T
            order = runs.masked_fill(spared, torch.inf).flatten()[:, None]
            mask = ~lowest(order, int(order.numel() * ratio)).reshape(score.T.shape).T
        elif t < 15 and group is ROW:
            mask = ~lowest(score, int(len(score) * ratio))
        elif t < 15:
            mask = ~lowest(score.flatten()[:, None], int(score.numel() * ratio)).reshape(score.shape)
        z = (w + u) * mask
        u = u + w - z
        w = inverse @ (right + z - u)
    return ((w + u) * mask).T / norm


@pytest.mark.parametrize("shape", [(96, 128), (64, 200), (256, 48)])
@pytest.mark.parametrize("target", [0.5, 0.7, 0.8, (2, 4), (3, 8)])
@pytest.mark.parametrize("group", [LAYER, ROW])
def test_the_same_as_published(shape: tuple[int, int], target: float | tuple[int, int], group: ComparisonGroup) -> None:
    weight, gram = layer(*shape)
    asked = Pattern(*target) if isinstance(target, tuple) else Decimal(str(target))
    keep, new = admm.prune(weight, gram, Sparsity(asked, group))
    expected = published(weight, gram, target, group)
    assert layer_error(weight, new, gram) == pytest.approx(layer_error(weight, expected, gram), rel=0.01)
    assert float((keep != (expected != 0)).float().mean()) < 0.01


def test_a_weight_that_loses_nothing_stays_as_it_is() -> None:
    weight, gram = layer(32, 64)
    keep, new = admm.prune(weight, gram, Sparsity(Decimal(0), LAYER))
    assert keep.all() and torch.allclose(new, weight, rtol=1e-5)
