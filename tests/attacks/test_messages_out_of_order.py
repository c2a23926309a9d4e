"""A dishonest aggregator skips a phase, goes back to one or answers another one, or a silo speaks out of turn."""

from copy import copy

import pytest

from attacks.stage import ONE, PHASES, ZERO, Stage, assert_refused, assert_turned_away, told
from crypto.backends.double_masking.phases import TABLE
from crypto.encoding.wire import encode
from crypto.errors import UnexpectedMessage
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("4.1", "4.2", "4.4", "4.9", "5.6.1", "5.8.1")


@pytest.mark.parametrize("phase", PHASES)
def test_what_the_table_does_not_list_aborts_the_round_at_a_silo(phase: Phase) -> None:
    stage = Stage(phase)
    session, answer = stage.silos[ZERO], stage.answers()[ZERO]
    bodies = [exchange.aggregator for exchange in TABLE.values() if exchange.aggregator != TABLE[phase].aggregator]
    assert len(bodies) == 8
    for body in bodies:
        assert_refused(copy(session), told(stage, **{body: {}}), UnexpectedMessage)
    other = round_pb2.AggregatorMessage.FromString(answer)
    other.round = Stage(run=b"another run     ").round.digest
    assert_refused(copy(session), encode(other), UnexpectedMessage)
    session.receive(answer)
    assert session.phase is TABLE[phase].then


@pytest.mark.parametrize("phase", PHASES)
def test_the_aggregator_takes_no_message_of_another_phase(phase: Phase) -> None:
    stage = Stage(phase)
    bodies = [exchange.silo for exchange in TABLE.values() if exchange.silo != TABLE[phase].silo]
    for body in bodies:
        message = encode(round_pb2.SiloMessage(round=stage.round.digest, **{body: {}}))
        assert_turned_away(stage, ONE, message, UnexpectedMessage)
    stage.finish()


def test_answers_again_that_were_right_once() -> None:
    """An answer to each phase, given once more in the next."""
    stage = Stage()
    for phase in PHASES:
        answers = stage.answers()
        for silo, answer in answers.items():
            stage.silos[silo].receive(answer)
        if phase is not Phase.AUDIT:
            assert_refused(copy(stage.silos[ZERO]), answers[ZERO], UnexpectedMessage)
    with pytest.raises(UnexpectedMessage):
        stage.silos[ZERO].receive(answers[ZERO])
    assert stage.silos[ZERO].phase is Phase.DONE


def test_nothing_is_masked_or_recomputed_out_of_turn() -> None:
    for phase in PHASES:
        session = Stage(phase).silos[ZERO]
        if phase is not Phase.UPLOAD:
            with pytest.raises(RuntimeError, match="in UPLOAD only"):
                session.masked(0, None)  # type: ignore[arg-type]
        if phase is not Phase.AUDIT:
            with pytest.raises(RuntimeError, match="in AUDIT only"):
                session.audit(0, ())
