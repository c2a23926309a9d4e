"""A dishonest silo waits for the others' coins, and says one that assigns a forged chunk to it and its accomplice."""

from collections.abc import Iterator
from itertools import count

import pytest

from attacks.stage import FOUR, SILOS, THREE, Stage, altered, assert_refused, assert_turned_away, entry
from crypto.backends.double_masking.transcript import auditors, joint_coin
from crypto.errors import BadAudit
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("3.7.1", "5.8.2", "5.9.7")


def with_coin(stage: Stage, coin: bytes) -> round_pb2.Coins:
    coins = round_pb2.Coins()
    coins.CopyFrom(stage.aggregator.transcript.coins)
    entry(coins, "coins", FOUR).coin = coin
    return coins


def chosen(stage: Stage) -> bytes:
    """A coin with which chunk 0 goes to THREE and FOUR: one try in ten."""
    tries: Iterator[bytes] = (number.to_bytes(32, "big") for number in count())
    wanted = {SILOS.index(THREE), SILOS.index(FOUR)}
    return next(
        coin
        for coin in tries
        if {*auditors(joint_coin(stage.context, with_coin(stage, coin)), 1, 5, 2)[0].tolist()} == wanted
    )


def test_it_is_not_the_one_committed_to() -> None:
    stage = Stage(Phase.COIN)
    lie = round_pb2.SiloMessage.FromString(stage.silos[FOUR].message())
    lie.coin.coin = bytes(32)
    assert_turned_away(stage, FOUR, lie.SerializeToString(deterministic=True), BadAudit)  # an honest aggregator
    answers = stage.answers()
    coin = chosen(stage)
    for silo in SILOS[:3]:  # one that colludes
        answer = altered(answers[silo], lambda body: body.CopyFrom(with_coin(stage, coin)))
        assert_refused(stage.silos[silo], answer, BadAudit, FOUR)
