"""AlphaPruning's ratios against its published formula in floating point, and what holds for all exponents."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.pruning.alpha_pruning import alpha_ratios
from crypto.pruning.block_ratios import MOST, STEP

ALPHAS = st.decimals(1, 20, places=4)
BLOCKS = st.lists(st.tuples(ALPHAS, st.integers(500, 5000)), min_size=1, max_size=12)


def published(alphas: list[Decimal], sizes: list[int], ratio: float) -> np.ndarray:
    alpha, size = np.array(alphas, float), np.array(sizes, float)
    mapped = (alpha - alpha.min()) / (alpha.max() - alpha.min()) * (1.3 - 0.7) + 0.7
    return mapped * (ratio * size.sum() / (mapped * size).sum())


@pytest.mark.parametrize("ratio", ["0.2", "0.5", "0.6"])
@pytest.mark.parametrize("sizes", [[1000] * 5, [1000, 2000, 1500, 1000, 3000]])
def test_the_published_formula(ratio: str, sizes: list[int]) -> None:
    alphas = [Decimal(text) for text in ("2.3415", "3.9", "2.9001", "5.1", "2.3415")]
    found = alpha_ratios(alphas, sizes, Decimal(ratio))
    expected = published(alphas, sizes, float(ratio))
    assert expected.max() < float(MOST)
    slack = float(STEP) * (1 + max(sizes) / min(sizes)) / 2
    assert np.abs(np.array(found, float) - expected).max() <= slack
    pruned = sum(each * size for each, size in zip(found, sizes, strict=True))
    assert abs(pruned - Decimal(ratio) * sum(sizes)) <= STEP / 2 * max(sizes)


@settings(deadline=None)
@given(BLOCKS, st.decimals(0, "0.9999", places=5))
def test_what_holds_for_all_exponents(blocks: list[tuple[Decimal, int]], ratio: Decimal) -> None:
    alphas, sizes = [alpha for alpha, _ in blocks], [size for _, size in blocks]
    found = alpha_ratios(alphas, sizes, ratio)
    assert all(0 <= each <= MOST and each == round(each, 4) for each in found)
    pruned = sum(each * size for each, size in zip(found, sizes, strict=True))
    assert abs(pruned - ratio * sum(sizes)) <= STEP / 2 * max(sizes)
    slack = (1 + Decimal(max(sizes)) / min(sizes)) * STEP  # of two blocks' rounding
    assert max(found) - min(found) <= ratio * Decimal("0.6") / Decimal("0.7") + slack
    for one, ratio_of_one in zip(alphas, found, strict=True):
        for other, ratio_of_other in zip(alphas, found, strict=True):
            assert one < other or ratio_of_one + slack >= ratio_of_other


def test_clipped_ratios_leave_the_mean_as_it_is() -> None:
    # The paper's would be 0.8 * 0.7, 0.8 * 1 and 0.8 * 1.3 = 1.04.
    found = alpha_ratios([Decimal(2), Decimal(3), Decimal(4)], [1000] * 3, Decimal("0.8"))
    assert found[2] == MOST and sum(found) == 3 * Decimal("0.8")
    assert abs(found[1] - found[0] - Decimal("0.24")) <= STEP  # of those that are not clipped it is the paper's


def test_equal_exponents_are_uniform() -> None:
    assert alpha_ratios([Decimal("3.2")] * 3, [100, 200, 300], Decimal("0.6")) == [Decimal("0.6")] * 3
    assert alpha_ratios([Decimal("3.2")], [100], Decimal("0.5")) == [Decimal("0.5")]
    assert alpha_ratios([Decimal(2), Decimal(3)], [100, 100], Decimal(0)) == [0, 0]
