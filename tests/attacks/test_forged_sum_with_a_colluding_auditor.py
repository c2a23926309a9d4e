"""A dishonest aggregator forges a chunk, an auditor of it colludes and says it is right, and the other is left out."""

import pytest

from attacks.stage import AGGREGATOR, FOUR, SILOS, Stage, assert_refused, assert_silent, heard, told
from crypto.backends.double_masking.transcript import VERDICT, joint_coin
from crypto.encoding.wire import encode
from crypto.errors import BadAudit
from crypto.names import Phase
from scenarios.world import Lanes
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("5.9.3", "5.9.4", "5.9.7")


def exchanged(opened: dict[str, Lanes]) -> None:
    """Two different counts of the first chunk, which changes no other."""
    votes = opened["votes blocks.0.weight"]
    most, least = int(votes.argmax()), int(votes.argmin())
    votes[[most, least]] = votes[[least, most]]


def lying(**fields: int) -> tuple[Stage, str]:
    """A round in AUDIT with a forged chunk 0, that FOUR and an honest silo were drawn for; the honest one."""
    while True:  # of ten pairs four have FOUR in them
        stage = Stage(**fields)
        stage.forge = exchanged
        stage.go_on(Phase.AUDIT)
        if FOUR in stage.auditors(0):
            (honest,) = {*stage.auditors(0)} - {FOUR}
            return stage, honest


def without_the_honest_auditor(stage: Stage, honest: str) -> bytes:
    """It aborts; the others' verdicts, and FOUR's, which recomputed nothing."""
    with pytest.raises(BadAudit) as found:
        stage.speak(honest)
    assert found.value.party == AGGREGATOR
    assert_silent(stage.silos[honest])
    transcript, verdicts = stage.aggregator.transcript, round_pb2.Verdicts()
    judged = encode(transcript.opening) + joint_coin(stage.context, transcript.coins)
    for silo in SILOS[:4]:
        if silo != honest:
            stage.speak(silo)
            verdicts.signatures.add(silo=silo, signature=heard(stage.said[silo, Phase.AUDIT]).signature)
    verdicts.signatures.add(silo=FOUR, signature=stage.keys[FOUR].sign(VERDICT + stage.context, judged))
    return told(stage, verdicts=verdicts)


def test_a_chunk_without_both_verdicts_ends_the_round() -> None:
    stage, honest = lying(threshold=4, colluders=1)
    answer = without_the_honest_auditor(stage, honest)
    for silo in SILOS[:4]:
        if silo != honest:
            assert_refused(stage.silos[silo], answer, BadAudit)


def test_a_plan_for_no_colluders_would_let_the_others_come_to_done() -> None:
    stage, honest = lying()
    answer = without_the_honest_auditor(stage, honest)
    for silo in SILOS[:4]:
        if silo != honest:
            stage.silos[silo].receive(answer)
            assert stage.silos[silo].phase is Phase.DONE
