"""A dishonest aggregator opens sums over {A, B, C, D, E}, {A, B, C} and {A, D, E}: the last two less the first are A's.

No two of the three differ by one silo. The silos have sparsity ratios of their own, so that the plans, each with
another ratio, look like three questions and get three times the same answer.
"""

from itertools import permutations
from pathlib import Path

import pytest

from attacks.sequences import asked, combined, opened_over, over
from attacks.stage import FOUR, ONE, SILOS, THREE, TWO, ZERO, plain

pytestmark = pytest.mark.clause("2.5.8", "2.5.9", "2.5.10", "2.5.11")

SETS = {"0.5": tuple(SILOS), "0.6": (ZERO, ONE, TWO), "0.7": (ZERO, THREE, FOUR)}


@pytest.mark.parametrize("order", [*permutations(SETS)])
def test_all_sums_that_open_are_over_one_set(order: tuple[str, ...], tmp_path: Path) -> None:
    """That of the round that came first: nobody signs another, and who was called dropped takes part in no other."""
    sums = [opened_over(over(asked(ratio), SETS[ratio]), tmp_path) for ratio in order]
    assert {*sums} - {()} == {SETS[order[0]]}


def test_the_same_set_again_is_no_harm(tmp_path: Path) -> None:
    sums = [opened_over(over(asked(ratio), SETS["0.6"]), tmp_path) for ratio in ("0.5", "0.6")]
    assert sums == [SETS["0.6"]] * 2
    sums = [opened_over(over(asked(ratio), SILOS), tmp_path / "all") for ratio in SETS]
    assert sums == [tuple(SILOS)] * 3


def test_without_a_ledger_it_is_one_silos_keep_mask() -> None:
    first, second, third = (over(asked(ratio), survivors) for ratio, survivors in SETS.items())
    assert combined((-1, first), (1, second), (1, third)) == plain(first, ZERO)
