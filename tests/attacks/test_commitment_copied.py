"""A dishonest silo commits to another silo's coin by copying its commitment, and repeats the coin when it is known."""

from typing import Any

import pytest

from attacks.stage import FOUR, THREE, Stage, assert_turned_away, heard
from crypto.backends.double_masking.transcript import ACCEPTANCE
from crypto.encoding.wire import encode
from crypto.errors import BadAudit
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("3.7.1", "5.8.2")


def test_a_commitment_is_to_a_coin_of_one_silo() -> None:
    stage = Stage()
    copied = heard(stage.silos[THREE].message()).coin_commitment

    def lie(body: Any) -> None:
        body.coin_commitment = copied
        signed = body.sealing_key + copied
        body.signature = stage.keys[FOUR].sign(ACCEPTANCE + stage.round.digest, signed)

    stage.lies[FOUR, Phase.PLAN] = lie
    stage.go_on(Phase.COIN)
    theirs = round_pb2.SiloMessage.FromString(stage.silos[THREE].message())
    assert_turned_away(stage, FOUR, encode(theirs), BadAudit)
    assert_turned_away(stage, FOUR, stage.silos[FOUR].message(), BadAudit)
