"""A dishonest silo encrypts its bundle under another key than it shares, falls silent, and so keeps its masks in."""

import pytest

from attacks.stage import FOUR, SILOS, Stage
from crypto.backends.double_masking.transcript import bundle_bytes, seal_bundle
from crypto.errors import BadShare, MalformedMessage
from crypto.names import Phase

pytestmark = pytest.mark.clause("3.6.1", "5.3.3", "5.6.4")


def test_the_sum_is_not_opened() -> None:
    stage = Stage(Phase.SHARES, {FOUR: Phase.UPLOAD})
    seeds = dict.fromkeys(SILOS[:4], bytes(32))
    bundle = seal_bundle(bytes(32), stage.context, FOUR, seeds)
    stage.lies[FOUR, Phase.SHARES] = lambda body: setattr(body, "bundle", bundle)
    stage.go_on(Phase.UNMASK)
    with pytest.raises(BadShare) as found:
        stage.answers()
    assert found.value.party == ""  # by the shares alone it could as well be a holder
    assert stage.opened == []


@pytest.mark.parametrize("silos", [0, 3, 5])
def test_a_bundle_for_another_number_of_peers_is_not_taken(silos: int) -> None:
    stage = Stage(Phase.SHARES)
    stage.lies[FOUR, Phase.SHARES] = lambda body: setattr(body, "bundle", bytes(bundle_bytes(silos)))
    with pytest.raises(MalformedMessage) as found:
        stage.speak(FOUR)
    assert found.value.party == FOUR
    del stage.lies[FOUR, Phase.SHARES]
    stage.finish()
