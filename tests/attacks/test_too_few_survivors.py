"""A dishonest aggregator calls silos dropped until fewer are left than the plan hides a silo among."""

import pytest

from attacks.stage import ONE, SILOS, TWO, ZERO, Stage, altered, assert_refused, difference, plain, without
from crypto.errors import TooFewSurvivors
from crypto.names import Phase

pytestmark = pytest.mark.clause("4.7", "5.1.4", "5.2.3", "5.3.4", "5.4.3")

FIELDS = {Phase.PLAN: "keys", Phase.KEYS: "sealed", Phase.SHARES: "sealed", Phase.UPLOAD: "roots"}


@pytest.mark.parametrize("phase", FIELDS)
def test_least_survivors_less_one(phase: Phase) -> None:
    """Four are to survive, three are enough to open a sum."""
    stage = Stage(phase, least_survivors=4)
    answers = stage.answers()
    for silo in (ZERO, ONE, TWO):
        answer = altered(answers[silo], without(FIELDS[phase], *SILOS[3:]))
        assert_refused(stage.silos[silo], answer, TooFewSurvivors, "")


@pytest.mark.parametrize("phase", FIELDS)
def test_an_honest_aggregator_ends_the_round(phase: Phase) -> None:
    stage = Stage(least_survivors=4, lost=dict.fromkeys(SILOS[3:], phase))
    with pytest.raises(TooFewSurvivors, match=f"phase {phase}: 3 of 5 silos answered and 4 are needed"):
        stage.finish()
    assert stage.opened == []


def test_among_one_other_a_silo_is_hidden_from_everybody_but_that_one() -> None:
    stage = Stage()
    assert difference(plain(stage, ZERO, ONE), plain(stage, ONE)) == plain(stage, ZERO)
