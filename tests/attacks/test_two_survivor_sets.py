"""A dishonest aggregator shows some silos a survivor set with one silo in it, and the others a set without."""

import pytest

from attacks.stage import (
    FOUR,
    ONE,
    SILOS,
    THREE,
    TWO,
    ZERO,
    Stage,
    altered,
    assert_refused,
    gullible,
    heard,
    told,
    without,
)
from crypto.errors import BadSignature, TooFewSurvivors
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("5.5.1", "5.5.3", "5.6.1", "5.6.2")


def divided() -> tuple[Stage, dict[str, bytes]]:
    """Three silos saw all five survive, two saw FOUR dropped; what each signed."""
    stage = Stage(Phase.UPLOAD)
    for silo, answer in stage.answers().items():
        stage.silos[silo].receive(altered(answer, without("roots", FOUR)) if silo in (TWO, THREE) else answer)
    return stage, {silo: heard(session.message()).signature for silo, session in stage.silos.items()}


def signatures(stage: Stage, signed: dict[str, bytes], *silos: str) -> bytes:
    entries = [round_pb2.SiloSignature(silo=silo, signature=signed[silo]) for silo in silos]
    return told(stage, survivors_signatures=round_pb2.SurvivorsSignatures(signatures=entries))


def test_who_was_shown_the_other_set_reveals_nothing() -> None:
    stage, signed = divided()
    for silo in (ZERO, ONE, FOUR):
        stage.silos[silo].receive(signatures(stage, signed, ZERO, ONE, FOUR))
    assert_refused(stage.silos[TWO], signatures(stage, signed, TWO, THREE), TooFewSurvivors, "")
    assert_refused(stage.silos[THREE], signatures(stage, signed, ZERO, TWO, THREE), BadSignature, ZERO)
    revealed = [heard(stage.silos[silo].message()) for silo in (ZERO, ONE, FOUR)]
    assert [len(body.self_seeds) for body in revealed] == [5, 5, 5]
    assert not any(body.bundle_keys for body in revealed)


def test_without_signatures_shares_of_both_secrets_would_come_out() -> None:
    stage, signed = divided()
    with gullible():
        for silo in SILOS:
            group = (TWO, THREE) if silo in (TWO, THREE) else ()
            stage.silos[silo].receive(signatures(stage, signed, ZERO, ONE, *group or (FOUR,)))
    about = {silo: heard(session.message()) for silo, session in stage.silos.items()}
    assert FOUR in [share.silo for share in about[ZERO].self_seeds]
    assert [share.silo for share in about[TWO].bundle_keys] == [FOUR]
