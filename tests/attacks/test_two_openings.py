"""A dishonest aggregator shows two openings to two groups of silos, to have two sums audited."""

import pytest

from attacks.stage import FOUR, ONE, SILOS, THREE, TWO, ZERO, Stage, altered, assert_refused, gullible, heard, told
from crypto.errors import BadSignature, TooFewSurvivors
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("5.7.1", "5.7.3", "5.8.1")


def divided() -> tuple[Stage, dict[str, bytes]]:
    """THREE and FOUR hold another sum root than the others; what each signed."""
    stage = Stage(Phase.UNMASK)
    for silo, answer in stage.answers().items():
        other = altered(answer, lambda body: setattr(body, "sum_root", bytes(32)))
        stage.silos[silo].receive(other if silo in (THREE, FOUR) else answer)
    return stage, {silo: heard(session.message()).signature for silo, session in stage.silos.items()}


def signatures(stage: Stage, signed: dict[str, bytes], *silos: str) -> bytes:
    entries = [round_pb2.SiloSignature(silo=silo, signature=signed[silo]) for silo in silos]
    return told(stage, opening_signatures=round_pb2.OpeningSignatures(signatures=entries))


def test_only_one_group_goes_on_and_the_other_keeps_its_coins() -> None:
    stage, signed = divided()
    for silo in (ZERO, ONE, TWO):
        stage.silos[silo].receive(signatures(stage, signed, ZERO, ONE, TWO))
    assert_refused(stage.silos[THREE], signatures(stage, signed, THREE, FOUR), TooFewSurvivors, "")
    assert_refused(stage.silos[FOUR], signatures(stage, signed, ZERO, THREE, FOUR), BadSignature, ZERO)


def test_without_signatures_both_groups_would_reveal_their_coins() -> None:
    stage, signed = divided()
    with gullible():
        for silo in SILOS:
            stage.silos[silo].receive(signatures(stage, signed, *SILOS))
    assert all(len(heard(session.message()).coin) == 32 for session in stage.silos.values())
