"""What a layer's weights would be to make up for what came before, against numpy and by definition."""

import numpy as np
import pytest
import torch

from silo_agent.pruning.aimed_weight import aimed

NUMBERS = torch.Generator().manual_seed(3)
INPUTS = torch.randn(60, 7, generator=NUMBERS) @ torch.rand(7, 7, generator=NUMBERS)
WEIGHT = torch.randn(5, 7, generator=NUMBERS)
WANTED = torch.randn(60, 5, generator=NUMBERS) + INPUTS @ WEIGHT.T
GRAM, TARGET = INPUTS.T @ INPUTS, WANTED.T @ INPUTS


@pytest.mark.clause("2.4.15")
def test_it_is_the_damped_way_to_least_squares() -> None:
    """Of all weights V it has the least ||X V^T - Y||^2 + d ||V - W||^2."""
    x, y, w = (tensor.double().numpy() for tensor in (INPUTS, WANTED, WEIGHT))
    damping = 0.1 * np.trace(x.T @ x) / 7
    stacked = np.vstack([x, np.sqrt(damping) * np.eye(7)])
    wanted = np.vstack([y, np.sqrt(damping) * w.T])
    least, *_ = np.linalg.lstsq(stacked, wanted, rcond=None)
    found = aimed(WEIGHT, GRAM, TARGET)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), least.T, rtol=1e-3, atol=1e-4)


def test_where_nothing_is_missing_it_stays() -> None:
    torch.testing.assert_close(aimed(WEIGHT, GRAM, WEIGHT @ GRAM), WEIGHT, rtol=1e-4, atol=1e-5)


@pytest.mark.clause("2.4.15")
@pytest.mark.parametrize(
    ("gram", "target"),
    [
        (torch.zeros(7, 7), TARGET),  # no token
        (GRAM, torch.full((5, 7), 3e38)),  # beyond float32
    ],
)
def test_where_nothing_can_be_said_it_stays(gram: torch.Tensor, target: torch.Tensor) -> None:
    assert torch.equal(aimed(WEIGHT, gram, target), WEIGHT)


def test_more_damping_where_a_sum_is_not_positive_definite() -> None:
    gram = GRAM - 0.2 * GRAM.diagonal().mean() * torch.eye(7)
    assert torch.linalg.eigvalsh(gram)[0] < -0.1 * gram.diagonal().mean()
    least = gram.double() + 1.0 * gram.diagonal().mean() * torch.eye(7)
    expected = WEIGHT + (TARGET - WEIGHT @ gram).double() @ least.inverse()
    torch.testing.assert_close(aimed(WEIGHT, gram, TARGET), expected.float(), rtol=1e-3, atol=1e-3)
