"""A dishonest aggregator forwards fewer signatures than a quorum, so that the others may have signed something else."""

import pytest

from attacks.stage import FOUR, SILOS, Stage, altered, assert_refused, without
from crypto.errors import TooFewSurvivors
from crypto.names import Phase

pytestmark = pytest.mark.clause("4.7", "5.5.3", "5.7.3", "5.9.4")


@pytest.mark.parametrize("phase", [Phase.CONSISTENCY, Phase.OPENING, Phase.AUDIT])
def test_one_less_than_the_threshold(phase: Phase) -> None:
    stage = Stage(phase, threshold=4)
    answers = stage.answers()
    for silo in SILOS[2:]:
        answer = altered(answers[silo], without("signatures", *SILOS[:2]))
        assert_refused(stage.silos[silo], answer, TooFewSurvivors, "")


@pytest.mark.parametrize("phase", [Phase.CONSISTENCY, Phase.OPENING])
def test_as_many_as_the_threshold_are_enough(phase: Phase) -> None:
    stage = Stage(phase, threshold=4)
    answer = altered(stage.answers()[FOUR], without("signatures", SILOS[0]))
    stage.silos[FOUR].receive(answer)
    assert stage.silos[FOUR].phase is stage.aggregator.phase
