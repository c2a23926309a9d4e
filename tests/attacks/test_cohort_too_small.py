"""A dishonest aggregator plans a sum over two silos, in which each hides the other from nobody."""

from collections.abc import Callable
from typing import Any

import pytest

from attacks.stage import ONE, TWO, Stage, difference, plain
from crypto.errors import PlanError

pytestmark = pytest.mark.clause("2.1.1", "2.1.3", "2.1.4", "2.3.4")


def test_two_silos(approach: Callable[..., Any]) -> None:
    silo = approach()
    del silo.agreed.roster[3:], silo.agreed.roster[0]
    silo.agreed.threshold = silo.agreed.least_survivors = 2
    silo.refuses(silo.agreed, PlanError, "roster", "2 silos")


def test_two_survivors_of_three(approach: Callable[..., Any]) -> None:
    """Allowed where a plan says so in so many words, and refused by a silo that does not say so too."""
    silo = approach()
    del silo.agreed.roster[3:]
    silo.agreed.threshold = silo.agreed.least_survivors = 2
    silo.refuses(silo.agreed, PlanError, "threshold: 2", "two_honest_survivors")
    silo.agreed.two_honest_survivors = True
    silo.refuses(silo.agreed, PlanError, "honest silos of a threshold: 2 where this silo asks for 3")


def test_what_it_would_tell() -> None:
    stage = Stage()
    assert difference(plain(stage, ONE, TWO), plain(stage, TWO)) == plain(stage, ONE)
