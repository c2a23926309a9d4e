"""A dishonest aggregator puts sealing keys of its own into the participants, to read and seal anew what passes it."""

import pytest

from attacks.stage import FOUR, SILOS, ZERO, Stage, altered, assert_refused, entry, gullible, heard
from crypto.backends.double_masking.transcript import participants_digest, seal_info
from crypto.errors import BadSignature
from crypto.names import Phase, Suite
from crypto.primitives.sealed import SealingKey
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("3.1.2", "5.1.4")

MINE = SealingKey.generate(Suite.DEFAULT)


def swapped(stage: Stage) -> bytes:
    def edit(body: round_pb2.Participants) -> None:
        entry(body, "keys", FOUR).sealing_key = MINE.public_bytes

    return altered(stage.answers()[ZERO], edit)


def test_the_key_is_not_signed_by_its_silo() -> None:
    stage = Stage()
    answer = swapped(stage)
    for silo in SILOS[:4]:
        assert_refused(stage.silos[silo], answer, BadSignature, FOUR)
    with pytest.raises(BadSignature, match=FOUR):
        stage.silos[FOUR].receive(answer)


def test_without_signatures_the_aggregator_would_read_what_silos_seal() -> None:
    stage = Stage()
    answer = swapped(stage)
    with gullible():
        stage.silos[ZERO].receive(answer)
    assert stage.silos[ZERO].phase is Phase.KEYS
    sealed = entry(heard(stage.silos[ZERO].message()), "sealed", FOUR).sealed
    digest = participants_digest(stage.round.digest, round_pb2.AggregatorMessage.FromString(answer).participants)
    assert len(MINE.open(sealed, seal_info(b"contribution", digest, ZERO, FOUR))) == 32
