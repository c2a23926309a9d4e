"""Who is there, and who is known not to come."""

import pytest

from aggregator.rounds import present_silos
from aggregator.rounds.present_silos import CONNECTED_SECONDS, PresentSilos
from crypto.backends.double_masking.aggregator import DoubleMaskingAggregator
from crypto.names import Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.session import AggregatorSession, Round
from scenarios.world import World
from support.plans import plan_message, signing_keys

A, B, C, D = (f"silo-{index:03d}" for index in range(4))


def session(run: bytes = b"a run of 4 silos", accepted: tuple[str, ...] = ()) -> AggregatorSession:
    """A round in PLAN that some silos have accepted."""
    round_ = Round(checked_plan(plan_message(4, threshold=3, run=run)), 0)
    begun, world = DoubleMaskingAggregator(round_), World(round_.plan, signing_keys(4))
    for silo in accepted:
        begun.receive(silo, world.silos[silo].message())
    return begun


def test_it_is_known_why_a_silo_will_not_come() -> None:
    present, first, second = PresentSilos(), session(), session(b"another run of 4")
    present.declined(D, first)
    assert [present.why_not(silo, first) for silo in (C, D)] == ["", "declined the round"]
    assert present.why_not(D, second) == "", "it declined the other one"
    present.gone(D, "is revoked")
    assert [present.why_not(D, begun) for begun in (first, second)] == ["is revoked"] * 2


def test_who_was_dropped_is_lost_until_it_asks() -> None:
    present, over = PresentSilos(), session()
    over.dropped = {C: Phase.KEYS, D: Phase.PLAN}
    present.dropped(over.dropped)
    present.asked(D)
    assert [present.is_lost(silo) for silo in (A, C, D)] == [False, True, False]


def test_a_round_is_offered_until_it_is_accepted_or_declined() -> None:
    present, begun = PresentSilos(), session(accepted=(A,))
    present.gone(C, "its process has ended")
    assert [present.may_begin(silo, begun) for silo in (A, B, C, "silo-009")] == [False, True, True, False]
    present.declined(B, begun)
    assert not present.may_begin(B, begun)
    assert present.may_begin(B, session(b"another run of 4"))
    begun.phase = Phase.KEYS
    assert not present.may_begin(C, begun)


def test_who_called_lately_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(present_silos, "monotonic", lambda: now)
    present = PresentSilos()
    present.called(A)
    now += CONNECTED_SECONDS / 2
    present.called(B)
    present.called(B)
    assert present.connected() == 2
    now += CONNECTED_SECONDS / 2
    assert present.connected() == 2
    now += 1
    assert present.connected() == 1
