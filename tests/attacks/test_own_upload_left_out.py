"""A dishonest aggregator calls a silo dropped to the silo's own face, although it uploaded, or changes its root."""

import pytest

from attacks.stage import SILOS, Stage, altered, assert_refused, entry, without
from crypto.backends.double_masking.transcript import UPLOAD_ROOT
from crypto.errors import BadSignature, BadUpload
from crypto.names import Phase

pytestmark = pytest.mark.clause("5.4.3")


@pytest.mark.parametrize("silo", SILOS)
def test_it_does_not_help_to_open_a_sum_without_itself(silo: str) -> None:
    """Its self-seed share would come out beside the bundle-key shares that the others then reveal of it."""
    stage = Stage(Phase.UPLOAD)
    assert_refused(stage.silos[silo], altered(stage.answers()[silo], without("roots", silo)), BadUpload)


def test_nor_with_another_root_in_its_name() -> None:
    stage = Stage(Phase.UPLOAD)
    answers = stage.answers()
    for silo in SILOS[:2]:
        answer = altered(answers[silo], lambda body, silo=silo: setattr(entry(body, "roots", silo), "root", bytes(32)))
        assert_refused(stage.silos[silo], answer, BadSignature, silo)
    silo = SILOS[2]

    def signed(body: object) -> None:
        root = entry(body, "roots", silo)
        root.root, root.signature = bytes(32), stage.keys[silo].sign(UPLOAD_ROOT + stage.context, bytes(32))

    assert_refused(stage.silos[silo], altered(answers[silo], signed), BadUpload)
