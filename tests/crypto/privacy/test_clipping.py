"""What one unit contributes: bounded exactly, and as near to its values as whole numbers allow."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.privacy.clipping import MOST_CLIP, contribution

VALUES = st.lists(st.floats(width=64), min_size=1, max_size=60)
CLIPS = st.integers(1, MOST_CLIP)


def squares(units: object) -> int:
    return sum(int(unit) ** 2 for unit in np.asarray(units).tolist())


@pytest.mark.clause("2.9.2")
@given(VALUES, st.floats(1e-3, 1e6), CLIPS)
def test_no_unit_contributes_more_than_the_clip(values: list[float], radius: float, clip: int) -> None:
    """Whatever its values are: NaN, infinity and the largest floats among them."""
    assert squares(contribution(np.array(values), radius, clip)) <= clip**2


@given(st.lists(VALUES, min_size=1, max_size=5), st.integers(0, 4), CLIPS)
def test_a_sum_changes_by_the_clip_at_most_where_one_unit_is_emptied(
    units: list[list[float]], emptied: int, clip: int
) -> None:
    size = max(map(len, units))
    padded = [np.array(unit + [0.0] * (size - len(unit))) for unit in units]
    whole = sum(contribution(unit, 10.0, clip) for unit in padded)
    padded[emptied % len(padded)] = np.zeros(size)
    assert squares(whole - sum(contribution(unit, 10.0, clip) for unit in padded)) <= clip**2


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=50).filter(any))
def test_a_unit_within_the_radius_is_rounded_and_no_more(values: list[float]) -> None:
    radius, clip = 2 * math.hypot(*values) + 1e-3, 1 << 24
    due = np.array(values) * clip / radius
    assert np.abs(contribution(np.array(values), radius, clip) - due).max() <= 0.5 + 1e-6


def test_a_longer_unit_keeps_its_direction() -> None:
    values, clip = np.array([3.0, 4.0, 0.0]) * 1e9, 1 << 20
    units = contribution(values, 1.0, clip)
    assert np.abs(units - np.array([0.6, 0.8, 0]) * clip).max() <= 2
    assert squares(units) <= clip**2


def test_values_that_are_no_numbers_are_not_refused() -> None:
    units = contribution(np.array([math.nan, math.inf, 1.0]), 1.0, 1000)
    assert units.tolist() == [0, 1000, 0]
    assert contribution(np.array([math.nan, 0.0]), 1.0, 1000).tolist() == [0, 0]
