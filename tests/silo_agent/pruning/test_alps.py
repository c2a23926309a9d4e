"""ALPS against a plain transcription of its authors' procedure."""

from collections.abc import Callable
from decimal import Decimal

import pytest
import torch
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.pruners import alps
from support.grams import layer, layer_error


def zeroing(target: float | tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """What sets the smallest entries of a matrix [inputs, outputs] to zero. `target` is a ratio, or (kept, of)."""

    def of_runs(matrix: Tensor) -> Tensor:
        assert isinstance(target, tuple)
        runs = matrix.T.reshape(-1, target[1])
        small = runs.abs().argsort(1)[:, : target[1] - target[0]]
        return runs.scatter(1, small, torch.zeros_like(runs)).reshape(matrix.T.shape).T

    def of_all(matrix: Tensor) -> Tensor:
        assert isinstance(target, float)
        flat = matrix.flatten()
        small = flat.abs().argsort()[: matrix.numel() - round((1 - target) * matrix.numel())]
        return flat.index_fill(0, small, 0).reshape(matrix.shape)

    return of_runs if isinstance(target, tuple) else of_all


def published(weight: Tensor, gram: Tensor, target: float | tuple[int, int]) -> Tensor:
    """New weights, in float64, inputs first as in the published code."""
    project = zeroing(target)
    damped = gram.double() + 0.01 * gram.double().diagonal().mean() * torch.eye(len(gram))
    norm = damped.diagonal().sqrt()
    a, dense = damped / norm / norm[:, None], (weight.double() * norm).T
    right, unit = a @ dense, torch.eye(len(a))
    first = d = project(dense)
    v, old, rho, grew = torch.zeros_like(dense), first == 0, 0.1, False
    support = int((first != 0).sum())
    for i in range(300):
        b = torch.linalg.solve(a + rho * unit, right - v + rho * d)
        d = project(b + v / rho)
        v = v + rho * (b - d)
        if (i + 1) % 3 == 0:
            change = int(((d == 0) != old).sum())
            old = d == 0
            if change / support > 0.1:
                grew, rho = True, rho * 1.3
            elif change / support > 0.005:
                grew, rho = True, rho * 1.2
            elif change and grew:
                rho *= 1.1
            elif change:
                rho, d, v = rho / 5, first, torch.zeros_like(dense)
            elif grew:
                break
            else:
                rho /= 5
            if i >= 30 and change / support < 0.0003:
                break
    return (conjugate_gradients(a, right, project(b)) / norm[:, None]).T


def conjugate_gradients(a: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """Ten iterations, each output on its own."""
    x = x.clone()
    for column, b in zip(x.T, right.T, strict=True):
        on = column != 0
        a_on, solution = a[on][:, on], column[on]
        residual = b[on] - a_on @ solution
        direction = residual
        for _ in range(10):
            if residual.norm() <= 1e-4 * b.norm():
                break
            step = residual @ residual / (direction @ a_on @ direction)
            solution = solution + step * direction
            following = residual - step * a_on @ direction
            direction = following + (following @ following) / (residual @ residual) * direction
            residual = following
        column[on] = solution
    return x


@pytest.mark.parametrize("shape", [(96, 128), (64, 200), (256, 48)])
@pytest.mark.parametrize("target", [0.5, 0.7, 0.8, (2, 4), (3, 8)])
def test_the_same_as_published(shape: tuple[int, int], target: float | tuple[int, int]) -> None:
    weight, gram = layer(*shape)
    asked = Pattern(*target) if isinstance(target, tuple) else Decimal(str(target))
    _, new = alps.prune(weight, gram, Sparsity(asked, ComparisonGroup.LAYER))
    expected = published(weight, gram, target)
    assert layer_error(weight, new, gram) == pytest.approx(layer_error(weight, expected, gram), rel=0.01)


def test_a_weight_that_loses_nothing_stays_as_it_is() -> None:
    weight, gram = layer(32, 64)
    keep, new = alps.prune(weight, gram, Sparsity(Decimal(0), ComparisonGroup.LAYER))
    assert keep.all() and torch.allclose(new, weight, rtol=1e-5)


def test_where_eigenvalues_do_not_converge_weights_are_ranked_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text decides whether they do, so it must not end in an error (14.2.1)."""

    def fails(_: Tensor) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    weight, inputs = torch.randn(5, 8), torch.randn(40, 8)
    sparsity = Sparsity(Decimal("0.5"), ComparisonGroup.LAYER)
    keep, new = alps.prune(weight, inputs.T @ inputs, sparsity)
    assert int((~keep).sum()) == 20
    assert weight.abs()[keep].min() >= weight.abs()[~keep].max()
    assert torch.equal(new, weight * keep)
