"""A dishonest aggregator withholds one silo's shares from another, which then masks nothing against that silo."""

import pytest

from attacks.stage import FOUR, ONE, ZERO, Stage, altered, assert_refused, heard, without
from crypto.errors import CorruptSum, MalformedMessage
from crypto.names import Phase

pytestmark = pytest.mark.clause("5.3.4", "5.4.1", "5.4.3")


def withheld() -> Stage:
    """ZERO does not hold FOUR's shares."""
    stage = Stage(Phase.SHARES)
    for silo, answer in stage.answers().items():
        stage.silos[silo].receive(altered(answer, without("sealed", FOUR)) if silo == ZERO else answer)
    return stage


def test_it_signs_no_survivors_with_that_silo() -> None:
    stage = withheld()
    assert_refused(stage.silos[ZERO], stage.answers()[ZERO], MalformedMessage)


def test_without_it_the_sum_is_of_no_use() -> None:
    """FOUR's mask against ZERO stays in, since nobody has the other end of it."""
    stage = withheld()
    for silo, answer in stage.answers().items():
        if silo != ZERO:
            stage.silos[silo].receive(answer)
    stage.lost = {ZERO: Phase.CONSISTENCY}
    stage.go_on(Phase.UNMASK)
    stage.answers()
    assert stage.aggregator.survivors[0] == ZERO
    with pytest.raises(CorruptSum, match="the header counts"):
        stage.open()
    assert heard(stage.said[ONE, Phase.UNMASK]).bundle_keys == []
