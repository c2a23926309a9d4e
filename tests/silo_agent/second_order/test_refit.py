"""The refit against a direct solution on each row's kept weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silo_agent.second_order.refit import refit
from support.grams import layer, layer_error


def random_keep(outputs: int, inputs: int, share: float) -> torch.Tensor:
    return torch.rand(outputs, inputs, generator=torch.Generator().manual_seed(1)) < share


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_it_is_the_least_squares_solution(share: float) -> None:
    weight, _ = layer(24, 40)
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(3)) * torch.linspace(0.1, 3, 40)
    x[:, 1:] += 0.5 * x[:, :-1]
    keep = random_keep(24, 40, share)
    new = refit(weight, weight, keep, x.T @ x)
    assert torch.equal(new, new * keep)
    for row, on, found in zip(weight, keep, new, strict=True):
        expected = torch.linalg.lstsq(x[:, on].double(), (x @ row).double()).solution
        assert float((found[on] - expected).norm()) < 1e-3 * float(expected.norm())


@given(outputs=st.integers(1, 6), inputs=st.integers(4, 24), seed=st.integers(0, 99), tokens=st.integers(1, 40))
@settings(deadline=None)
def test_no_row_is_worse_than_at_the_start(outputs: int, inputs: int, seed: int, tokens: int) -> None:
    """Also where there are fewer tokens than inputs, or an input has none: the Gram matrix has no inverse."""
    generator = torch.Generator().manual_seed(seed)
    weight, start = torch.randn(2, outputs, inputs, generator=generator)
    x = torch.randn(tokens, inputs, generator=generator)
    x[:, 0] = 0
    keep = torch.rand(weight.shape, generator=generator) < 0.5
    new = refit(weight, start, keep, x.T @ x)
    for row, before, after in zip(weight, start * keep, new, strict=True):
        assert layer_error(row, after, x.T @ x) <= layer_error(row, before, x.T @ x) * (1 + 1e-5)


def test_a_matrix_that_is_no_gram_matrix_leaves_the_start() -> None:
    weight, gram = layer(8, 16)
    keep = random_keep(8, 16, 0.5)
    for spoiled in (-gram, gram * torch.nan):
        assert torch.equal(refit(weight, weight * 2, keep, spoiled), weight * 2 * keep)
