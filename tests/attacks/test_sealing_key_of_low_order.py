"""A dishonest silo signs a sealing key to which nobody can seal, to stop the others, or everybody can open."""

from typing import Any

import pytest

from attacks.stage import FOUR, SILOS, Stage, altered, assert_refused, assert_turned_away, entry
from crypto.backends.double_masking.transcript import ACCEPTANCE
from crypto.errors import BadSeal
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("5.1.3", "5.1.4")


def lied(stage: Stage, key: bytes) -> Any:
    def edit(body: Any) -> None:
        body.sealing_key = key
        signed = key + body.coin_commitment
        body.signature = stage.keys[FOUR].sign(ACCEPTANCE + stage.round.digest, signed)

    return edit


@pytest.mark.parametrize("how", ["low order", "out of range", "short", "long", "none"])
def test_nobody_seals_to_it(how: str) -> None:
    stage = Stage()
    good = round_pb2.SiloMessage.FromString(stage.silos[FOUR].message()).acceptance.sealing_key
    key = {
        "low order": good[:-32] + bytes(32),  # X25519 with it gives zeros, whoever asks
        "out of range": b"\xff" * 1184 + good[-32:],  # coefficients of ML-KEM are below 3329
        "short": good[:-1],
        "long": good + b"x",
        "none": b"",
    }[how]
    lie = lied(stage, key)
    message = altered(stage.silos[FOUR].message(), lie, round_pb2.SiloMessage)
    assert_turned_away(stage, FOUR, message, BadSeal)  # an honest aggregator
    for silo, answer in stage.answers().items():  # one that colludes
        if silo in SILOS[:4]:
            assert_refused(
                stage.silos[silo], altered(answer, lambda body: lie(entry(body, "keys", FOUR))), BadSeal, FOUR
            )
    assert stage.silos[FOUR].phase is Phase.PLAN
