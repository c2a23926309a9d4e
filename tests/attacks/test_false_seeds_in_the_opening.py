"""A dishonest aggregator announces other seeds than those that hid the words, so that another sum fits the uploads."""

from typing import Any

import pytest

from attacks.stage import AGGREGATOR, FOUR, ONE, SILOS, ZERO, Edit, Stage, altered, assert_refused, assert_silent, flip
from crypto.errors import BadAudit
from crypto.names import Phase
from scenarios.world import tree

pytestmark = pytest.mark.clause("5.6.5", "5.6.6", "5.9.2")


def seed_of(field: str, at: int) -> Edit:
    def edit(body: Any) -> None:
        one = getattr(body, field)[at]
        one.seed = flip(one.seed)

    return edit


def dropped_survives(body: Any) -> None:
    body.self_seeds.add(silo=FOUR, seed=bytes(32))


LIES: dict[str, Edit] = {
    "its own self seed": seed_of("self_seeds", 0),
    "its own pair seed": seed_of("pair_seeds", 0),
    "a self seed less": lambda body: body.self_seeds.pop(),
    "a pair seed less": lambda body: body.pair_seeds.pop(),
    "a dropped silo's self seed": dropped_survives,
    "a survivor's pair seeds": lambda body: body.pair_seeds.add(dropped=ONE, survivor=ZERO, seed=bytes(32)),
    "another order": lambda body: body.self_seeds.reverse(),
    "a short seed": lambda body: setattr(body.self_seeds[2], "seed", bytes(31)),
    "no sum": lambda body: body.ClearField("sum_root"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_silo_that_can_tell_refuses(lie: str) -> None:
    stage = Stage(Phase.UPLOAD, {FOUR: Phase.UPLOAD})
    stage.go_on(Phase.UNMASK)
    assert_refused(stage.silos[ZERO], altered(stage.answers()[ZERO], LIES[lie]), BadAudit)


def test_the_others_find_it_in_audit() -> None:
    """A false seed of ONE, and a sum that fits it: ONE refuses, and the header words show it to the other four."""
    stage = Stage(Phase.UNMASK)
    for silo in SILOS:
        stage.speak(silo)
    stage.aggregator.recover()
    seed_of("self_seeds", 1)(stage.aggregator._known.opening)  # type: ignore[attr-defined]  # its own
    stage.opened = stage.open_sum()
    stage.aggregator.summed(tree(stage.opened).root)
    for silo, answer in stage.aggregator.close_phase().items():
        if silo == ONE:
            assert_refused(stage.silos[ONE], answer, BadAudit)
        else:
            stage.silos[silo].receive(answer)
    stage.lost = {ONE: Phase.OPENING}
    stage.go_on(Phase.AUDIT)
    for index in range(len(stage.layout.chunks)):
        for silo in stage.auditors(index):
            if stage.silos[silo].phase is Phase.AUDIT:
                with pytest.raises(BadAudit, match="the header counts") as found:
                    stage.silos[silo].audit(index, stage.committed(index))
                assert found.value.party == AGGREGATOR
                assert_silent(stage.silos[silo])
