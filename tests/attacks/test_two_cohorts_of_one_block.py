"""A dishonest aggregator has two cohorts of one block sum, and each sum signed by silos that know only that one.

The cohorts are {A, B, C, D, E} and {A, B, C, D, F}, and three signatures open a sum. A, B and E sign the first, and C,
D and F the second: no silo signs both, and the difference of the sums is E's keep mask less F's.
"""

from pathlib import Path

import pytest

from attacks.sequences import opened_over
from attacks.stage import Stage, difference, plain
from crypto.names import Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from support.plans import plan_message, silo_names

pytestmark = pytest.mark.clause("2.5.10", "2.5.12", "2.6.3")

A, B, C, D, E, F = silo_names(6)
ABORTED = Phase.CONSISTENCY
"""From where on the aggregator tells a silo that the round was aborted."""


def stage(run: bytes, cohort: tuple[str, ...], *aborted: str) -> Stage:
    message = plan_message(6, run=run)
    message.pruning.cohort_floor = 5
    for member in message.roster:
        member.capacity = 1
    del message.rounds[:]
    message.rounds.add().sampling.SetInParent()
    message.rounds.add(block=0).votes.SetInParent()
    return Stage(round_=Round(checked_plan(message), 1, bytes(32), cohort), lost=dict.fromkeys(aborted, ABORTED))


def first() -> Stage:
    return stage(b"the first run...", (A, B, C, D, E), C, D)


def second() -> Stage:
    return stage(b"the second run..", (A, B, C, D, F), A, B)


def test_the_second_sum_is_not_opened(tmp_path: Path) -> None:
    assert opened_over(first(), tmp_path) == (A, B, C, D, E)
    assert opened_over(second(), tmp_path) == ()


def test_nor_is_the_first_one_after_the_second(tmp_path: Path) -> None:
    assert opened_over(second(), tmp_path) == (A, B, C, D, F)
    assert opened_over(first(), tmp_path) == ()


def test_without_a_ledger_both_are() -> None:
    one, other = first(), second()
    for each in (one, other):
        each.go_on(Phase.OPENING)
    sums = [{name: lanes.tolist() for name, lanes in each.open().items()} for each in (one, other)]
    assert difference(*sums) == difference(plain(one, E), plain(other, F))
