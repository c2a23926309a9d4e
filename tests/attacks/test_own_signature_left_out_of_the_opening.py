"""A dishonest aggregator leaves a silo out of the opening's signers, to learn its coin and yet assign it nothing."""

import pytest

from attacks.stage import SILOS, Stage, altered, assert_refused, without
from crypto.errors import BadAudit
from crypto.names import Phase

pytestmark = pytest.mark.clause("5.7.3", "5.8.1")


@pytest.mark.parametrize("silo", SILOS)
def test_it_keeps_its_coin(silo: str) -> None:
    stage = Stage(Phase.OPENING)
    assert_refused(stage.silos[silo], altered(stage.answers()[silo], without("signatures", silo)), BadAudit)
