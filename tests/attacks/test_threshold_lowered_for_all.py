"""A dishonest aggregator plans with fewer shares, colluders or survivors than the silos asked for, to open sooner."""

from collections.abc import Callable
from typing import Any

import pytest

from crypto.errors import PlanError

pytestmark = pytest.mark.clause("2.1.1", "2.1.4", "2.3.4")


def test_a_plan_in_which_two_quorums_need_not_share_an_honest_silo(approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.agreed.threshold = 2
    silo.refuses(silo.agreed, PlanError, "threshold", "3 to 5")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"threshold": 3, "least_survivors": 4, "colluders": 0}, "colluders: 0 where"),
        ({"threshold": 4, "least_survivors": 4, "colluders": 1}, "of a threshold: 3 where"),
        (
            {"threshold": 4, "least_survivors": 4, "colluders": 2, "two_honest_survivors": True},
            "of a threshold: 2 where",
        ),
    ],
)
def test_a_sound_plan_with_less_than_this_silo_asks_for(
    change: dict[str, Any], word: str, approach: Callable[..., Any]
) -> None:
    silo = approach(colluders=1, least_honest_survivors=4)
    for name, value in change.items():
        setattr(silo.agreed, name, value)
    silo.refuses(silo.agreed, PlanError, word)
    silo.agreed.threshold, silo.agreed.least_survivors, silo.agreed.two_honest_survivors = 5, 5, False
    silo.agreed.colluders = 1
    silo.accepts(silo.agreed)
