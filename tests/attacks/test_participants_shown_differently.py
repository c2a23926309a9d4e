"""A dishonest aggregator shows silos different participants, so that some share secrets with a set of its choice."""

import pytest

from attacks.stage import FOUR, ONE, SILOS, ZERO, Stage, altered, assert_refused, entry, heard, told, without
from crypto.errors import BadSeal
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("3.2.1", "3.3.2", "5.2.3")


def test_they_cannot_read_each_others_seals() -> None:
    stage = Stage()
    for silo, answer in stage.answers().items():
        stage.silos[silo].receive(altered(answer, without("keys", FOUR)) if silo == ZERO else answer)
    sent = {silo: heard(session.message()) for silo, session in stage.silos.items()}

    def delivery(to: str, *senders: str) -> bytes:
        sealed = [round_pb2.Sealed(silo=silo, sealed=entry(sent[silo], "sealed", to).sealed) for silo in senders]
        return told(stage, pair_seed_delivery=round_pb2.PairSeedDelivery(sealed=sealed))

    assert_refused(stage.silos[ZERO], delivery(ZERO, *SILOS[1:4]), BadSeal, ONE)
    assert_refused(stage.silos[ONE], delivery(ONE, ZERO, *SILOS[2:4]), BadSeal, ZERO)
