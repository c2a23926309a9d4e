"""A dishonest silo reveals an altered share, so that a wrong mask comes off the sum."""

from typing import Any

import pytest

from attacks.stage import FOUR, ONE, TWO, ZERO, Stage, assert_refused, flip
from crypto.errors import BadAudit, BadShare, CorruptSum, RoundAborted
from crypto.names import Phase

pytestmark = pytest.mark.clause("3.5.3", "4.8", "5.6.3", "5.6.4", "5.6.6", "6.7.2")


def lied(field: str, *silent: str) -> Stage:
    """ONE alters its share of ZERO's self seed, or of the dropped FOUR's bundle key."""
    stage = Stage(Phase.UPLOAD, {FOUR: Phase.UPLOAD, **dict.fromkeys(silent, Phase.UNMASK)})
    stage.go_on(Phase.UNMASK)

    def lie(body: Any) -> None:
        shares = getattr(body, field)
        shares[0].share = flip(shares[0].share)

    stage.lies[ONE, Phase.UNMASK] = lie
    return stage


@pytest.mark.parametrize(("field", "silent"), [("self_seeds", ()), ("bundle_keys", ()), ("bundle_keys", (TWO,))])
def test_the_sum_is_not_opened(field: str, silent: tuple[str, ...]) -> None:
    stage = lied(field, *silent)
    with pytest.raises(BadShare) as found:
        stage.answers()
    assert type(found.value) is BadShare
    assert stage.opened == []
    told = stage.aggregator.abort(found.value.message)
    for silo in stage.aggregator.expected:
        assert_refused(stage.silos[silo], told, RoundAborted, "")


def test_with_no_share_more_than_needed_the_false_seed_shows_in_the_sum() -> None:
    """Nothing tells a wrong seed from the right one where t shares are all there are, but its mask."""
    stage = lied("self_seeds", TWO)
    answers = stage.answers()
    with pytest.raises(CorruptSum, match="the header counts"):  # an honest aggregator
        stage.open()
    assert_refused(stage.silos[ZERO], answers[ZERO], BadAudit)  # one that does not look


@pytest.mark.parametrize("length", [0, 65, 67])
def test_a_share_of_another_length_is_not_taken(length: int) -> None:
    stage = Stage(Phase.UNMASK)
    stage.lies[ONE, Phase.UNMASK] = lambda body: setattr(body.self_seeds[0], "share", bytes(length))
    with pytest.raises(BadShare) as found:
        stage.speak(ONE)
    assert found.value.party == ONE
    del stage.lies[ONE, Phase.UNMASK]
    stage.finish()
