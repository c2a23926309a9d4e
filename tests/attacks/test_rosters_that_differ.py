"""A dishonest aggregator runs two rounds whose rosters differ by one silo, and subtracts the sums."""

from dataclasses import replace
from pathlib import Path

import pytest

from attacks.sequences import asked, combined, over
from attacks.stage import FOUR, SILOS, ZERO, Agent, Stage, agents, plain
from crypto.errors import ReleaseRefused
from crypto.names import Phase
from support.plans import silo_names

pytestmark = pytest.mark.clause("2.5.8", "2.5.10")

ROSTERS = {"removed": tuple(SILOS[:4]), "exchanged": (*SILOS[:4], "silo-444")}


@pytest.mark.parametrize("how", ROSTERS)
def test_refused_before_anything_is_computed(how: str, tmp_path: Path) -> None:
    stage = Stage()
    agent = Agent(stage, ZERO, tmp_path)
    stage.go_on(Phase.DONE)
    wanted = replace(agent.release, round=bytes(32), silos=ROSTERS[how])
    for refuse in (agent.store.begin, agent.store.send):
        with pytest.raises(ReleaseRefused, match="cannot be over the survivors of round"):
            refuse(wanted)
    assert len(agent.store.releases()) == 1
    agent.store.begin(replace(wanted, data=b"another text"))


def test_a_whole_second_round_over_fewer(tmp_path: Path) -> None:
    agents(Stage(), tmp_path, *SILOS).finish()
    for silo in SILOS[:4]:
        with pytest.raises(ReleaseRefused, match="cannot be over the survivors"):
            agents(Stage(silos=4), tmp_path, silo)


def test_a_silo_more_must_not_survive(tmp_path: Path) -> None:
    agents(Stage(), tmp_path, *SILOS).finish()
    with pytest.raises(ReleaseRefused, match="the survivors are not those"):
        agents(over(asked("0.5", 6, threshold=4), silo_names(6)), tmp_path, *SILOS).finish()
    with pytest.raises(ReleaseRefused, match="cannot be over the survivors"):  # all six would have to
        agents(Stage(silos=6, threshold=4, least_survivors=6), tmp_path, ZERO)


def test_without_a_ledger_the_difference_is_one_silos_keep_mask() -> None:
    first = over(asked("0.5"), SILOS)
    assert combined((1, first), (-1, over(asked("0.6", 4), SILOS[:4]))) == plain(first, FOUR)
