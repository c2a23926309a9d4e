"""Agreement from keep counts is that of the keep masks, which nobody has in a deployment."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.results.agreement import agreement
from support.keep_counts import agreement_by_hand, histogram, keep_masks


@settings(max_examples=40, deadline=None)
@given(
    silos=st.integers(2, 7),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    seed=st.integers(0, 999),
)
def test_agreement_from_counts_is_that_of_the_keep_masks(silos: int, sizes: list[int], seed: int) -> None:
    tensors = [keep_masks(silos, size, seed + at) for at, size in enumerate(sizes)]
    agreed = agreement([histogram(masks) for masks in tensors])
    assert (agreed.unanimous, agreed.pairwise, agreed.by_chance) == pytest.approx(agreement_by_hand(tensors), abs=1e-12)


def test_agreement_of_silos_that_choose_at_random_is_by_chance() -> None:
    masks = np.random.default_rng(0).random((5, 200_000)) > 0.7
    agreed = agreement([histogram(masks)])
    assert agreed.pairwise == pytest.approx(agreed.by_chance, abs=0.003)
    assert agreed.by_chance == pytest.approx(0.58, abs=0.003)
    assert agreed.unanimous == pytest.approx(0.7**5 + 0.3**5, abs=0.003)
