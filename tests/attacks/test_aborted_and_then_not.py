"""A dishonest aggregator tells a silo that the round is aborted, and goes on with it all the same."""

import pytest

from attacks.stage import ONE, PHASES, ZERO, Stage, assert_refused, told
from crypto.errors import RoundAborted, UnexpectedMessage
from crypto.names import Phase

pytestmark = pytest.mark.clause("4.8", "4.9")


@pytest.mark.parametrize("phase", PHASES)
def test_aborted_is_aborted(phase: Phase) -> None:
    stage = Stage(phase)
    answers = stage.answers()
    assert_refused(stage.silos[ZERO], told(stage, aborted={"phase": phase, "reason": "so"}), RoundAborted, "")
    with pytest.raises(UnexpectedMessage):
        stage.silos[ZERO].receive(answers[ZERO])
    assert stage.silos[ZERO].phase is Phase.ABORTED
    aborted = stage.aggregator.abort("so")
    with pytest.raises(UnexpectedMessage):
        stage.aggregator.receive(ONE, answers[ONE])
    assert_refused(stage.silos[ONE], aborted, RoundAborted, "")
