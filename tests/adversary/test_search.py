"""The adversary that searches finds nothing under the present rules, and a break under each that lacks something."""

from itertools import islice

import pytest

from adversary.knowledge import isolated
from adversary.questions import any_question_about_people
from adversary.relaxations import RELAXATIONS, RELAXATIONS_OF_THE_BUDGET, Make, rules_before
from adversary.rules import rules_with_a_budget
from adversary.search import broken, search

BLOCK, BLOCKS = 10_000, 100
"""CI searches the first block; `make adversary` all."""

BLOCK_WITH_NOISE, BLOCKS_WITH_NOISE = 1_000, 20
"""An epsilon takes longer to compute than a sequence to play."""

ENOUGH = 60_000
"""In so many sequences a break is found where there is one; mostly in a tenth of it."""


@pytest.mark.parametrize(
    "block", [pytest.param(block, marks=[pytest.mark.minutes] if block else []) for block in range(BLOCKS)]
)
def test_a_block_of_sequences_gives_nothing(block: int) -> None:
    combinable = 0
    for federation in islice(search(block), BLOCK):
        assert broken(federation) is None, broken(federation)
        combinable += len(federation.opened) > 1
    assert combinable > BLOCK / 50  # the rules leave something to look at


def test_each_way_is_found_under_the_rules_before() -> None:
    ways = set()
    for found in filter(None, map(broken, islice(search(1, rules_before), ENOUGH))):
        ways.add(found.way)
        if len(ways) == 4:
            return
    pytest.fail(f"only {ways}")


@pytest.mark.parametrize("make", RELAXATIONS.values(), ids=RELAXATIONS)
def test_a_break_is_found_where_one_rule_is_left_out(make: Make) -> None:
    assert any(map(broken, islice(search(1, make), ENOUGH)))


@pytest.mark.clause("14.7.2", "14.7.3", "14.7.4")
@pytest.mark.parametrize(
    "block", [pytest.param(block, marks=[pytest.mark.minutes] if block else []) for block in range(BLOCKS_WITH_NOISE)]
)
def test_no_sequence_tells_more_of_a_person_than_the_privacy_budget(block: int) -> None:
    """Sums with noise of one kind are asked for again, of other survivors, samples and texts, and without noise."""
    combinable = 0
    for federation in islice(search(block, rules_with_a_budget, any_question_about_people), BLOCK_WITH_NOISE):
        assert broken(federation) is None, broken(federation)
        combinable += len(federation.opened) > 1
    assert combinable > BLOCK_WITH_NOISE / 100


@pytest.mark.parametrize("make", RELAXATIONS_OF_THE_BUDGET.values(), ids=RELAXATIONS_OF_THE_BUDGET)
def test_more_than_the_privacy_budget_is_found_where_one_rule_of_it_is_left_out(make: Make) -> None:
    sequences = islice(search(1, make, any_question_about_people), ENOUGH)
    assert any(way.is_beyond_budget for way in filter(None, map(broken, sequences)))


def test_what_sums_tell_of_few() -> None:
    def added(*silos: int, question: str = "") -> frozenset[tuple[int, int, str]]:
        return frozenset((silo, 0, question) for silo in silos)

    assert isolated(frozenset({added(0, 1, 2, 3, 4)}), 3) == set()
    assert isolated(frozenset({added(0, 1, 2, 3, 4), added(0, 1, 2), added(0, 3, 4)}), 3) == {0}
    assert isolated(frozenset({added(0, 1, 2, 3), added(0, 1, 4, 5), added(2, 3, 4, 5)}), 3) == {0, 1}
    assert isolated(frozenset({added(0, 1, 2, 3, 4), added(0, 1, 2, 3, 5)}), 3) == {4, 5}
    assert isolated(frozenset({added(0, 1, 2, 3, 4), added(0, 1, 2, 3, 5)}), 2) == set()
    assert isolated(frozenset({added(0, 1, 2), added(0, 1, 2, question="another")}), 3) == set()
