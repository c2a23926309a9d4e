"""A dishonest aggregator and a silo collude: in a second round both it and the victim are called dropped."""

from pathlib import Path

import pytest

from attacks.stage import Stage, agents, difference, plain
from crypto.errors import ReleaseRefused
from crypto.names import Phase

pytestmark = pytest.mark.clause("2.5.5")

HONEST, VICTIM, COLLUDER = [f"silo-{index:03d}" for index in range(5)], "silo-004", "silo-005"
COHORT = {"silos": 6, "threshold": 4, "colluders": 1}
VOTES = "votes blocks.0.weight"


def first() -> Stage:
    return Stage(**COHORT)


def second() -> Stage:
    lost = {VICTIM: Phase.UPLOAD, COLLUDER: Phase.UPLOAD}
    return Stage(lost=lost, samples=5, **COHORT)


def test_no_honest_silo_signs_the_second_survivor_set(tmp_path: Path) -> None:
    """The plan withstands one colluder, so what differs by two silos may differ by one honest silo."""
    agents(first(), tmp_path, *HONEST).finish()
    with pytest.raises(ReleaseRefused, match="survivors differ"):
        agents(second(), tmp_path, *HONEST).go_on(Phase.UNMASK)


def test_without_a_ledger_the_difference_is_the_victims_and_the_colluders_own_keep_mask() -> None:
    sums = []
    for stage in (first(), second()):
        stage.finish()
        sums.append({VOTES: stage.open()[VOTES].tolist()})
    own = {VOTES: plain(first(), COLLUDER)[VOTES]}
    assert difference(difference(*sums), own)[VOTES] == plain(first(), VICTIM)[VOTES]
