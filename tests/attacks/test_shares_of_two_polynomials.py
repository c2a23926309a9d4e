"""A dishonest silo deals shares of different seeds, so that whoever answers decides which mask comes off its words."""

from typing import Any

import pytest

from attacks.stage import FOUR, ONE, Stage, entry
from crypto.backends.double_masking.transcript import seal_info
from crypto.errors import BadShare
from crypto.names import Phase
from crypto.primitives.sealed import seal

pytestmark = pytest.mark.clause("3.5.3", "5.6.4")


def test_the_sum_is_not_opened() -> None:
    stage = Stage(Phase.SHARES)
    participants = stage.aggregator.transcript.participants

    def lie(body: Any) -> None:
        sealing_key = entry(participants, "keys", ONE).sealing_key
        info = seal_info(b"shares", stage.context, FOUR, ONE)
        entry(body, "sealed", ONE).sealed = seal(stage.plan.suite, sealing_key, bytes(131) + b"1", info)

    stage.lies[FOUR, Phase.SHARES] = lie
    stage.go_on(Phase.UNMASK)
    with pytest.raises(BadShare):
        stage.answers()
    assert stage.opened == []
