"""A dishonest aggregator uses a signature for another purpose than it was made for, or as another silo's."""

from typing import Any

import pytest

from attacks.stage import FOUR, SILOS, THREE, Stage, altered, assert_refused, assert_turned_away, entry
from crypto.backends.double_masking.transcript import ACCEPTANCE, OPENING, SURVIVORS, UPLOAD_ROOT, VERDICT, joint_coin
from crypto.encoding.wire import encode
from crypto.errors import BadSignature
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause(
    "3.1.1", "3.1.2", "5.1.3", "5.1.4", "5.4.2", "5.4.3", "5.5.2", "5.5.3", "5.7.2", "5.7.3"
)

PURPOSES = {
    Phase.PLAN: ("keys", ACCEPTANCE),
    Phase.UPLOAD: ("roots", UPLOAD_ROOT),
    Phase.CONSISTENCY: ("signatures", SURVIVORS),
    Phase.OPENING: ("signatures", OPENING),
    Phase.AUDIT: ("signatures", VERDICT),
}


def signed_bytes(stage: Stage, phase: Phase) -> bytes:
    """What FOUR signs in a phase."""
    transcript = stage.aggregator.transcript
    match phase:
        case Phase.PLAN:
            key = entry(transcript.participants, "keys", FOUR)
            return key.sealing_key + key.coin_commitment
        case Phase.UPLOAD:
            return entry(transcript.survivors, "roots", FOUR).root
        case Phase.CONSISTENCY:
            return encode(transcript.survivors)
        case Phase.OPENING:
            return encode(transcript.opening)
        case _:
            return encode(transcript.opening) + joint_coin(stage.context, transcript.coins)


def put(field: str, signature: bytes) -> Any:
    return lambda body: setattr(entry(body, field, FOUR), "signature", signature)


@pytest.mark.parametrize("phase", PURPOSES)
def test_of_another_purpose(phase: Phase) -> None:
    stage = Stage(phase)
    answers = stage.answers()
    field, own = PURPOSES[phase]
    message, context = signed_bytes(stage, phase), stage.round.digest if phase is Phase.PLAN else stage.context
    right = stage.keys[FOUR].sign(own + context, message)
    assert altered(answers[THREE], put(field, right)) == answers[THREE]  # only the purpose will be another
    others = [purpose for _, purpose in PURPOSES.values() if purpose != own]
    for silo, purpose in zip(SILOS, others, strict=False):
        wrong = stage.keys[FOUR].sign(purpose + context, message)
        assert_refused(stage.silos[silo], altered(answers[silo], put(field, wrong)), BadSignature, FOUR)


@pytest.mark.parametrize("phase", PURPOSES)
def test_of_another_silo(phase: Phase) -> None:
    stage = Stage(phase)
    answers = stage.answers()
    field, _ = PURPOSES[phase]

    def pass_off(body: Any) -> None:
        """All that THREE signed, under FOUR's name."""
        entry(body, field, FOUR).CopyFrom(entry(body, field, THREE))
        next(item for item in reversed(getattr(body, field))).silo = FOUR

    for silo in SILOS[:3]:
        assert_refused(stage.silos[silo], altered(answers[silo], pass_off), BadSignature, FOUR)


@pytest.mark.parametrize("phase", [phase for phase in PURPOSES if phase is not Phase.UPLOAD])
def test_a_silo_that_speaks_with_anothers_signature(phase: Phase) -> None:
    stage = Stage(phase)
    for index in stage.silos[THREE].assigned if phase is Phase.AUDIT else ():
        stage.silos[THREE].audit(index, stage.committed(index))
    theirs = round_pb2.SiloMessage.FromString(stage.silos[THREE].message())
    assert_turned_away(stage, FOUR, encode(theirs), BadSignature)
    stage.finish()
