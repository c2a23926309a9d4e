"""A dishonest aggregator leaves out the verdicts of those who recomputed a chunk, so that nobody answers for it."""

import pytest

from attacks.stage import SILOS, Stage, altered, assert_refused, without
from crypto.errors import BadAudit, RoundAborted
from crypto.names import Phase

pytestmark = pytest.mark.clause("5.9.4", "5.9.5")


def test_silos_that_are_enough_do_not_do() -> None:
    stage = Stage(Phase.AUDIT)
    pair = stage.auditors(0)
    for silo, answer in stage.answers().items():
        assert_refused(stage.silos[silo], altered(answer, without("signatures", *pair)), BadAudit)


def test_nor_for_an_honest_aggregator() -> None:
    stage = Stage(Phase.AUDIT)
    pair = stage.auditors(0)
    for silo in SILOS:
        if silo not in pair:
            stage.speak(silo)
    with pytest.raises(BadAudit, match="lack a verdict"):
        stage.aggregator.close_phase()
    aborted = stage.aggregator.abort("nobody recomputed a chunk")
    assert_refused(stage.silos[pair[0]], aborted, RoundAborted, "")


def test_where_some_may_collude_one_of_the_two_does_not_do_either() -> None:
    stage = Stage(Phase.AUDIT, threshold=4, colluders=1)
    one, _ = stage.auditors(0)
    for silo, answer in stage.answers().items():
        assert_refused(stage.silos[silo], altered(answer, without("signatures", one)), BadAudit)
