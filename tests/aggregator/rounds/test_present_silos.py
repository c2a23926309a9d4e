"""Whom a phase waits for, and for how long: by a clock that the test moves."""

import asyncio
from collections.abc import Callable

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
PREPARATION, SECONDS = 600, 10


def session(run: bytes = b"a run of 4 silos", accepted: tuple[str, ...] = ()) -> AggregatorSession:
    """A round in PLAN that some silos have accepted."""
    message = plan_message(4, threshold=3, run=run)
    message.preparation_seconds, message.phase_seconds = PREPARATION, SECONDS
    round_ = Round(checked_plan(message), 0)
    begun, world = DoubleMaskingAggregator(round_), World(round_.plan, signing_keys(4))
    for silo in accepted:
        begun.receive(silo, world.silos[silo].message())
    return begun


def at(clock: Callable[[], float], work: Callable[[PresentSilos], None]) -> None:
    """Do work in an event loop that tells the time of `clock`."""

    async def run() -> None:
        asyncio.get_running_loop().time = clock  # type: ignore[method-assign]
        work(PresentSilos())

    asyncio.run(run())


def test_the_patience_of_a_phase_counts_from_the_last_arrival() -> None:
    now = 1000.0

    def work(present: PresentSilos) -> None:
        nonlocal now
        preparing, later = session(accepted=(A, B)), session(accepted=(A, B, C))
        later.phase = Phase.KEYS
        present.arrived()
        assert (present.seconds_left(preparing), present.seconds_left(later)) == (PREPARATION, SECONDS)
        now += 7
        assert (present.seconds_left(preparing), present.seconds_left(later)) == (PREPARATION - 7, SECONDS - 7)
        now += 4
        assert present.seconds_left(later) == -1
        present.arrived()
        assert present.seconds_left(later) == SECONDS

    at(lambda: now, work)


def test_nobody_waits_for_who_is_gone_or_declined_this_round() -> None:
    def work(present: PresentSilos) -> None:
        first, second = session(accepted=(A, B)), session(b"another run of 4", accepted=(A, B))
        present.arrived()
        present.gone(C)
        assert present.seconds_left(first) == PREPARATION, "D may come"
        present.declined(D, first)
        assert present.seconds_left(first) == 0
        assert present.seconds_left(second) == PREPARATION, "it declined the other one"
        present.gone(D)
        assert present.seconds_left(second) == 0

    at(lambda: 0.0, work)


def test_who_was_lost_is_not_waited_for_as_if_it_were_preparing_until_it_asks() -> None:
    def work(present: PresentSilos) -> None:
        over, next_one = session(), session(b"another run of 4", accepted=(A, B))
        over.dropped = {C: Phase.KEYS, D: Phase.PLAN}
        present.arrived()
        present.dropped(over)
        assert present.seconds_left(next_one) == SECONDS
        present.asked(D)
        assert present.seconds_left(next_one) == PREPARATION

    at(lambda: 0.0, work)


def test_a_round_is_offered_until_it_is_accepted_or_declined() -> None:
    present, begun = PresentSilos(), session(accepted=(A,))
    present.gone(C)
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
