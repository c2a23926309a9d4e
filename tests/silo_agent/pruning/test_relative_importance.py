"""What breaks ties of keep counts, against plain numpy; and that no order of addition shows in it."""

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Sparsity
from silo_agent.pruning import relative_importance as module
from silo_agent.pruning.pruners import wanda
from silo_agent.pruning.relative_importance import relative_importance
from support.importance import importance


def matrices(rows: int, columns: int, survivors: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, survivors + 1, (rows, columns), generator=generator).to(torch.uint8)
    weight = torch.randn(rows, columns, generator=generator)
    weight *= torch.exp(3 * torch.randn(columns, generator=generator))
    return counts, weight


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 2, 3, 200]), st.integers(0, 10**6))
def test_equals_plain_numpy(rows: int, columns: int, survivors: int, seed: int) -> None:
    counts, weight = matrices(rows, columns, survivors, seed)
    found = relative_importance(counts, survivors, weight)
    assert (found.dtype, found.shape) == (torch.float32, weight.shape)
    np.testing.assert_allclose(found.numpy(), importance(counts, survivors, weight), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_dtype_and_also_turned(dtype: torch.dtype) -> None:
    counts, weight = matrices(9, 14, 4, seed=1)
    weight = weight.clamp(-1e4, 1e4).to(dtype)
    np.testing.assert_allclose(relative_importance(counts, 4, weight), importance(counts, 4, weight), rtol=1e-6)
    np.testing.assert_allclose(relative_importance(counts.T, 4, weight.T), importance(counts.T, 4, weight.T), rtol=1e-6)


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
def test_bit_for_bit_the_same_in_any_order(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and columns in another order, as another machine's threads might add them up."""
    counts, weight = matrices(301, 257, 4, seed=2)
    first = relative_importance(counts, 4, weight)
    monkeypatch.setattr(module, "SLICE", rows_at_once * 257)
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.randperm(301, generator=generator), torch.randperm(257, generator=generator)
    again = relative_importance(counts[rows][:, columns], 4, weight[rows][:, columns])
    assert again.equal(first[rows][:, columns])
    assert relative_importance(counts, 4, weight * 2**-20).equal(first)


def test_rows_columns_and_models_of_zeros() -> None:
    counts, weight = matrices(6, 8, 4, seed=4)
    weight[2], weight[:, 3] = 0, 0
    found = relative_importance(counts, 4, weight)
    assert found.isfinite().all()
    assert not found[2].any() and not found[:, 3].any()
    np.testing.assert_allclose(found.numpy(), importance(counts, 4, weight), rtol=1e-6)
    assert not relative_importance(counts, 4, torch.zeros(6, 8)).any()


def test_where_silos_agree_on_everything_the_shares_decide() -> None:
    _, weight = matrices(6, 8, 4, seed=5)
    size = weight.abs().double()
    shares = size / size.sum(0, keepdim=True) + size / size.sum(1, keepdim=True)
    counts = torch.randint(0, 2, (6, 8), generator=torch.Generator().manual_seed(6)).to(torch.uint8) * 4
    np.testing.assert_allclose(relative_importance(counts, 4, weight).numpy(), shares.numpy(), rtol=1e-6)


def test_keep_counts_tell_how_strong_an_input_is() -> None:
    """Four silos prune by Wanda, each with norms of its own; the estimate ranks the inputs as their mean does."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(400, 120, generator=generator)
    common = torch.exp(torch.randn(120, generator=generator))
    norms = common * torch.exp(0.2 * torch.randn(4, 120, generator=generator))
    half = Sparsity(Decimal("0.5"), ComparisonGroup.ROW)
    counts = sum(wanda.prune(weight, own**2, half)[0].to(torch.uint8) for own in norms)
    assert isinstance(counts, Tensor)
    size = weight.abs().double()
    shares = size / size.sum(0, keepdim=True) + size / size.sum(1, keepdim=True)
    estimated = (relative_importance(counts, 4, weight) / shares).mean(0) ** 2
    assert stats.spearmanr(estimated, norms.mean(0)).statistic > 0.95


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_without_a_rank(bad: float) -> None:
    counts, weight = matrices(3, 4, 4, seed=8)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match="no rank"):
        relative_importance(counts, 4, weight)
