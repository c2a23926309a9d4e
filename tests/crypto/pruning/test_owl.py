"""OWL's ratios against its published formula in floating point, and what holds for all counts."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.pruning.block_ratios import MOST, STEP
from crypto.pruning.owl import SPREAD, owl_ratios

SEQUENCES = st.lists(st.tuples(st.integers(0, 500), st.integers(500, 5000)), min_size=1, max_size=12)


@pytest.mark.parametrize("ratio", ["0.3", "0.5", "0.7"])
def test_the_published_formula(ratio: str) -> None:
    counts = [31, 402, 77, 250, 250, 90]
    share = np.array(counts) / 10_000
    rescaled = (share - share.min()) / (share.max() - share.min()) * 0.08 * 2
    density = rescaled - rescaled.mean() + (1 - float(ratio))
    found = owl_ratios(counts, [10_000] * 6, Decimal(ratio))
    assert np.abs(np.array(found, float) - (1 - density)).max() <= float(STEP)
    assert sum(found) == 6 * Decimal(ratio)


@settings(deadline=None)
@given(SEQUENCES, st.decimals(0, "0.9999", places=5), st.decimals(0, "0.5", places=2))
def test_what_holds_for_all_counts(blocks: list[tuple[int, int]], ratio: Decimal, spread: Decimal) -> None:
    counts, sizes = [count for count, _ in blocks], [size for _, size in blocks]
    found = owl_ratios(counts, sizes, ratio, spread)
    assert all(0 <= each <= MOST and each == round(each, 4) for each in found)
    pruned = sum(each * size for each, size in zip(found, sizes, strict=True))
    assert abs(pruned - ratio * sum(sizes)) <= STEP / 2 * max(sizes)
    shares = [Decimal(count) / size for count, size in blocks]
    slack = (1 + Decimal(max(sizes)) / min(sizes)) * STEP  # of two blocks' rounding
    assert max(found) - min(found) <= 2 * spread + slack
    for one, ratio_of_one in zip(shares, found, strict=True):
        for other, ratio_of_other in zip(shares, found, strict=True):
            assert one > other or ratio_of_one + slack >= ratio_of_other


def test_clipped_ratios_leave_the_mean_as_it_is() -> None:
    assert owl_ratios([0, 100, 0, 0], [1000] * 4, Decimal("0.03")) == [
        Decimal("0.04"), Decimal(0), Decimal("0.04"), Decimal("0.04")
    ]  # fmt: skip
    high = owl_ratios([0, 100, 100, 100], [1000] * 4, Decimal("0.97"))
    assert high[0] == MOST and sum(high) == 4 * Decimal("0.97")


def test_equal_shares_are_uniform() -> None:
    assert owl_ratios([3, 6, 0 + 9], [100, 200, 300], Decimal("0.6")) == [Decimal("0.6")] * 3
    assert owl_ratios([7], [100], Decimal("0.5")) == [Decimal("0.5")]


def test_the_default_spread_is_the_range_of_ratios() -> None:
    found = owl_ratios([0, 50, 100], [1000] * 3, Decimal("0.5"))
    assert found == [Decimal("0.58"), Decimal("0.5"), Decimal("0.42")] and max(found) - min(found) == 2 * SPREAD
