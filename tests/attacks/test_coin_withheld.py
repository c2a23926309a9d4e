"""A dishonest silo withholds its coin when it does not like the assignment, to have chunks assigned without it."""

import pytest

from attacks.stage import FOUR, SILOS, Stage, altered, assert_refused, without
from crypto.backends.double_masking.transcript import auditors, joint_coin
from crypto.errors import MalformedMessage, RoundAborted, TooFewSurvivors
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("4.7", "5.8.3")


def test_the_round_ends() -> None:
    stage = Stage(Phase.COIN, {FOUR: Phase.COIN})
    with pytest.raises(TooFewSurvivors, match="phase coin: 4 of 5 silos answered and 5 are needed"):
        stage.answers()
    for silo in SILOS[:4]:
        assert_refused(stage.silos[silo], stage.aggregator.abort("too few"), RoundAborted, "")


def test_an_aggregator_that_colludes_cannot_leave_it_out() -> None:
    stage = Stage(Phase.COIN)
    answers = stage.answers()
    for silo in SILOS[:4]:
        assert_refused(stage.silos[silo], altered(answers[silo], without("coins", FOUR)), MalformedMessage)


def test_it_would_be_a_choice_between_two_assignments() -> None:
    stage = Stage(Phase.COIN)
    stage.answers()
    coins = round_pb2.Coins()
    coins.CopyFrom(stage.aggregator.transcript.coins)
    with_it = auditors(joint_coin(stage.context, coins), 64, 5, 2)
    without("coins", FOUR)(coins)
    assert auditors(joint_coin(stage.context, coins), 64, 5, 2).tolist() != with_it.tolist()
