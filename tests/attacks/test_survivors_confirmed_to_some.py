"""A dishonest aggregator forwards the signatures on the survivors to some silos only, and asks the others anew.

It can open the sum, and who was not told has no proof of whom it is over.
"""

from pathlib import Path

import pytest

from attacks.sequences import asked, opened_over, over
from attacks.stage import FOUR, ONE, SILOS, THREE, TWO, ZERO, Agent, Stage, agents
from crypto.errors import ReleaseRefused
from crypto.names import Phase

pytestmark = pytest.mark.clause("2.5.9", "2.5.10")


def test_who_was_not_told_takes_part_in_nothing_that_overlaps(tmp_path: Path) -> None:
    stage = agents(Stage(), tmp_path, *SILOS)
    stage.go_on(Phase.CONSISTENCY)
    told = (ZERO, ONE, TWO)
    for silo, answer in stage.answers().items():
        if silo in told:
            stage.silos[silo].receive(answer)
    again = Stage(run=b"another run     ")
    for silo in (THREE, FOUR):
        with pytest.raises(ReleaseRefused, match="nobody told it which silos that sum is over") as refused:
            Agent(again, silo, tmp_path)
        assert f"--forget {stage.round.digest.hex()}" in (refused.value.hint or "")
    for silo in told:
        Agent(again, silo, tmp_path)


def test_where_all_silos_are_needed_there_is_nothing_to_tell(tmp_path: Path) -> None:
    stage = agents(Stage(threshold=5), tmp_path, *SILOS)
    stage.go_on(Phase.CONSISTENCY)
    assert opened_over(over(asked("0.6"), SILOS), tmp_path) == tuple(SILOS)
    assert opened_over(over(asked("0.7"), SILOS[:4]), tmp_path) == ()


def test_a_round_that_ended_before_the_upload_released_nothing(tmp_path: Path) -> None:
    agents(Stage(), tmp_path, ZERO).go_on(Phase.SHARES)
    agents(Stage(run=b"another run     "), tmp_path, ZERO).finish()
