"""A dishonest aggregator runs two rounds whose rosters differ by one silo, and subtracts the sums."""

from dataclasses import replace
from pathlib import Path

import pytest

from attacks.stage import FOUR, SILOS, ZERO, Agent, Stage, agents, difference, plain
from crypto.errors import ReleaseRefused
from crypto.names import Phase

pytestmark = pytest.mark.clause("2.5.2", "2.5.4")

ROSTERS = {
    "removed": tuple(SILOS[:4]),
    "added": (*SILOS, "silo-005"),
    "exchanged": (*SILOS[:4], "silo-444"),
}


@pytest.mark.parametrize("how", ROSTERS)
@pytest.mark.parametrize("until", [Phase.CONSISTENCY, Phase.DONE])
def test_refused_before_anything_is_computed(how: str, until: Phase, tmp_path: Path) -> None:
    """Whether the first round came to an end or not: its words had left."""
    stage = Stage()
    agent = Agent(stage, ZERO, tmp_path)
    stage.go_on(until)
    wanted = replace(agent.release, round=bytes(32), question=b"another", roster=ROSTERS[how])
    with pytest.raises(ReleaseRefused, match="roster differs by one silo"):
        agent.store.begin(wanted)
    with pytest.raises(ReleaseRefused, match="roster differs by one silo"):
        agent.store.release(wanted)
    assert len(agent.store.releases()) == 1
    agent.store.begin(replace(wanted, data=b"another text", roster=ROSTERS[how]))


def test_a_whole_second_round(tmp_path: Path) -> None:
    first = agents(Stage(), tmp_path, *SILOS)
    first.finish()
    for silo in SILOS[:4]:
        with pytest.raises(ReleaseRefused, match="roster differs by one silo"):
            agents(Stage(silos=4, samples=5), tmp_path, silo)


def test_without_a_ledger_the_difference_is_one_silos_keep_mask() -> None:
    votes = "votes blocks.0.weight"
    sums = []
    for stage in (Stage(), Stage(silos=4, samples=5)):
        stage.finish()
        sums.append({votes: stage.open()[votes].tolist()})
    assert difference(*sums)[votes] == plain(Stage(), FOUR)[votes]
