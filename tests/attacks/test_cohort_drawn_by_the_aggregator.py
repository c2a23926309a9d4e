"""A dishonest aggregator chooses with which silos another one shares a block, to sum it with those that work for it."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from attacks.coin import ME, drawn, offer_of
from crypto.errors import PlanError, UnexpectedMessage

pytestmark = pytest.mark.clause("2.2.2", "2.2.4", "2.6.1", "2.6.2")


def test_only_the_cohort_of_the_silos_own_coin_is_accepted(approach: Callable[..., Any], tmp_path: Path) -> None:
    silo = approach()
    world, start = drawn(silo, tmp_path)
    honest = offer_of(start.round)
    for size in (3, 4, 5):
        for cohort in combinations(world.plan.silos, size):
            if cohort != start.round.cohort:
                silo.refuses(silo.agreed, UnexpectedMessage, "with another cohort", **honest | {"cohort": cohort})
    silo.accepts(silo.agreed, **honest)


def test_a_cohort_below_the_floor_or_none(approach: Callable[..., Any], tmp_path: Path) -> None:
    silo = approach()
    _, start = drawn(silo, tmp_path)
    for cohort in ((), (ME,), (ME, "silo-003"), ("silo-001", ME, "silo-009")):
        silo.refuses(silo.agreed, PlanError, "cohort", **offer_of(start.round) | {"cohort": cohort})


def test_a_cohort_where_none_is_drawn(approach: Callable[..., Any], tmp_path: Path) -> None:
    """Of the sampling round itself: who draws the coin could choose it."""
    silo = approach()
    world, _ = drawn(silo, tmp_path)
    silo.refuses(silo.agreed, PlanError, "for the whole roster", cohort=world.plan.silos[:3])
