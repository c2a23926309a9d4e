"""A dishonest aggregator replays in a new round what a silo that is absent signed in an earlier one."""

import pytest

from attacks.stage import FOUR, SILOS, Stage, altered, assert_refused, entry
from crypto.errors import BadSignature
from crypto.names import Phase
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("2.2.2", "3.1.1", "3.2.1")

SIGNED = {
    Phase.PLAN: ("participants", "keys"),
    Phase.UPLOAD: ("survivors", "roots"),
    Phase.CONSISTENCY: ("survivors_signatures", "signatures"),
    Phase.OPENING: ("opening_signatures", "signatures"),
    Phase.AUDIT: ("verdicts", "signatures"),
}


@pytest.fixture(scope="module")
def earlier() -> round_pb2.Transcript:
    return Stage(Phase.DONE, run=b"an earlier run  ").aggregator.transcript


@pytest.mark.parametrize("phase", SIGNED)
def test_an_old_signature(phase: Phase, earlier: round_pb2.Transcript) -> None:
    answer, field = SIGNED[phase]
    old = entry(getattr(earlier, answer), field, FOUR)
    stage = Stage(phase)

    def replay(body: object) -> None:
        entry(body, field, FOUR).CopyFrom(old)

    for silo, told in stage.answers().items():
        if silo in SILOS[:4]:
            assert_refused(stage.silos[silo], altered(told, replay), BadSignature, FOUR)
