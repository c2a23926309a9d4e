"""A dishonest aggregator asks all silos the same twice, but one of them for another sparsity ratio; what the others
sent falls out of the difference of the sums.
"""

from pathlib import Path

import numpy as np
import pytest

from attacks.stage import FOUR, SILOS, Stage, agents, difference, plain
from crypto.errors import ReleaseRefused
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from support.plans import plan_message

pytestmark = pytest.mark.clause("2.5.13")

VOTES = "votes blocks.0.weight"


def asked(ratio: str, of_the_others: str = "0.5", samples: int = 4) -> Stage:
    """Five silos with ratios of their own; FOUR's is `ratio`, and its keep mask follows from it."""
    message = plan_message(5, threshold=3)
    message.pruning.samples = samples
    for member in message.roster:
        member.sparsity_ratio = ratio if member.silo == FOUR else of_the_others
    stage = Stage(round_=Round(checked_plan(message), 0))
    if ratio != "0.5":
        stage.lanes[FOUR] = {name: lanes - np.minimum(lanes, 1) for name, lanes in stage.lanes[FOUR].items()}
    return stage


def test_no_honest_silo_computes_for_the_second_round(tmp_path: Path) -> None:
    agents(asked("0.5"), tmp_path, *SILOS).finish()
    for silo in SILOS:
        with pytest.raises(ReleaseRefused, match="some silos' sparsity ratios are not those of round"):
            agents(asked("0.6"), tmp_path, silo)


def test_all_silos_may_be_asked_for_another_ratio_together(tmp_path: Path) -> None:
    agents(asked("0.5"), tmp_path, *SILOS).finish()
    agents(asked("0.6", "0.6"), tmp_path, *SILOS).finish()


def test_silos_may_be_asked_again_with_the_ratios_that_they_had(tmp_path: Path) -> None:
    agents(asked("0.6"), tmp_path, *SILOS).finish()
    agents(asked("0.6", samples=5), tmp_path, *SILOS).finish()


def test_without_a_ledger_the_difference_is_what_one_silo_changed() -> None:
    sums = []
    for stage in (asked("0.5"), asked("0.6")):
        stage.finish()
        sums.append({VOTES: stage.open()[VOTES].tolist()})
    changed = difference(plain(asked("0.5"), FOUR), plain(asked("0.6"), FOUR))
    assert difference(*sums)[VOTES] == changed[VOTES]
    assert any(changed[VOTES])
