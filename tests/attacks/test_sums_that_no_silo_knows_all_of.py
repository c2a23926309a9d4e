"""A dishonest aggregator opens sums over {A, B, C, D}, {A, B, E, F} and {C, D, E, F}, of which each silo knows two.

In the span of any two of these sets every combination has four silos or more. So a silo that allowed whatever keeps the
combinations of the sums that it knows large would sign them all. The first two less the third are twice A and B.
"""

from itertools import combinations, permutations, product
from pathlib import Path

import pytest

from attacks.sequences import asked, combined, opened_over, over
from attacks.stage import ONE, ZERO, plain
from support.plans import silo_names

pytestmark = pytest.mark.clause("2.5.10", "2.5.11", "2.5.12")

A, B, C, D, E, F = silo_names(6)
SETS = {"0.5": (A, B, C, D), "0.6": (A, B, E, F), "0.7": (C, D, E, F)}


def test_what_each_silo_knows_looks_harmless() -> None:
    for one, other in combinations(SETS.values(), 2):
        for times, of_other in {*product(range(-2, 3), repeat=2)} - {(0, 0)}:
            assert sum(times * (silo in one) + of_other * (silo in other) != 0 for silo in silo_names(6)) >= 4


@pytest.mark.parametrize("order", [*permutations(SETS)])
def test_one_of_the_three_is_opened(order: tuple[str, ...], tmp_path: Path) -> None:
    sums = [opened_over(over(asked(ratio, 6, threshold=4), SETS[ratio]), tmp_path) for ratio in order]
    assert {*sums} - {()} == {SETS[order[0]]}


def test_without_a_ledger_it_is_twice_two_silos_keep_masks() -> None:
    first, second, third = (over(asked(ratio, 6, threshold=4), survivors) for ratio, survivors in SETS.items())
    two = plain(first, ZERO, ONE)
    assert combined((1, first), (1, second), (-1, third)) == {name: [2 * lane for lane in two[name]] for name in two}
