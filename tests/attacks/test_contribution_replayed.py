"""A dishonest aggregator replays a sealed contribution in another round, pair, direction or phase."""

from copy import copy

import pytest

from attacks.stage import ONE, TWO, ZERO, Edit, Stage, altered, assert_refused, entry, heard
from crypto.backends.double_masking.transcript import seal_info
from crypto.errors import BadSeal
from crypto.names import Phase

pytestmark = pytest.mark.clause("3.3.2", "3.4.1", "5.2.3", "5.3.4")


def instead(sealed: bytes) -> Edit:
    """As what ONE sealed for the recipient."""
    return lambda body: setattr(entry(body, "sealed", ONE), "sealed", sealed)


@pytest.mark.parametrize("phase", [Phase.KEYS, Phase.SHARES])
def test_of_another_pair_or_reflected(phase: Phase) -> None:
    stage = Stage(phase)
    answers = stage.answers()
    said = {silo: heard(stage.said[silo, phase]) for silo in (ZERO, ONE, TWO)}
    another_pair = entry(said[TWO], "sealed", ZERO).sealed  # sealed for ZERO, by TWO
    reflected = entry(said[ZERO], "sealed", ONE).sealed  # what ZERO itself sealed for ONE
    overheard = entry(said[ONE], "sealed", TWO).sealed
    for sealed in (another_pair, reflected, overheard):
        assert_refused(copy(stage.silos[ZERO]), altered(answers[ZERO], instead(sealed)), BadSeal, ONE)
    stage.silos[ZERO].receive(answers[ZERO])


def test_of_another_round_under_the_same_key() -> None:
    """Even a silo that used one sealing key twice would not take the seal of one round in another."""
    stage, other = Stage(Phase.KEYS), Stage(Phase.KEYS, run=b"another run     ")
    key = stage.silos[ZERO]._known.secrets.sealing_key  # type: ignore[attr-defined]
    stage.answers()
    sealed = entry(heard(stage.said[ONE, Phase.KEYS]), "sealed", ZERO).sealed
    own = (b"contribution", stage.context, ONE, ZERO)
    assert len(key.open(sealed, seal_info(*own))) == 32
    for at, wrong in enumerate((b"shares", other.context, TWO, TWO)):
        with pytest.raises(BadSeal):
            key.open(sealed, seal_info(*own[:at], wrong, *own[at + 1 :]))  # type: ignore[misc]


def test_a_contribution_for_shares() -> None:
    stage = Stage(Phase.SHARES)
    contribution = entry(heard(stage.said[ONE, Phase.KEYS]), "sealed", ZERO).sealed
    assert_refused(stage.silos[ZERO], altered(stage.answers()[ZERO], instead(contribution)), BadSeal, ONE)
