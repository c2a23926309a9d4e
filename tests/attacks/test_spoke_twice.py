"""A dishonest silo says two things in one phase, or speaks for one that was dropped or is of no roster."""

import pytest

from attacks.stage import FOUR, ONE, PHASES, Stage, assert_turned_away
from crypto.encoding.wire import encode
from crypto.errors import UnexpectedMessage
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("4.3", "4.4", "4.6")


@pytest.mark.parametrize("phase", PHASES)
def test_the_first_thing_stands(phase: Phase) -> None:
    stage = Stage(phase)
    stage.speak(ONE)
    said = stage.said[ONE, phase]
    second = round_pb2.SiloMessage.FromString(said)
    getattr(second, second.WhichOneof("body") or "").Clear()
    assert_turned_away(stage, ONE, encode(second), UnexpectedMessage)
    stage.aggregator.receive(ONE, said)  # the same again is no second thing
    stage.finish()


def test_who_was_dropped_is_not_heard_again() -> None:
    stage = Stage(Phase.SHARES, {FOUR: Phase.SHARES})
    message = stage.silos[FOUR].message()
    stage.go_on(Phase.UPLOAD)
    assert_turned_away(stage, FOUR, message, UnexpectedMessage)
    assert_turned_away(stage, "silo-005", message, UnexpectedMessage)
    stage.finish()
