"""Whom a phase waits for, for how long and with which reason it gives up: by a clock that the test moves."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from aggregator.rounds.phase_clock import PhaseClock
from aggregator.rounds.present_silos import PresentSilos
from crypto.backends.double_masking.aggregator import DoubleMaskingAggregator
from crypto.names import Phase
from crypto.plan_rules import checked_plan
from crypto.secagg.session import AggregatorSession, Round
from scenarios.world import World
from support.plans import plan_message, signing_keys

A, B, C, D = (f"silo-{index:03d}" for index in range(4))
PREPARATION, SECONDS, RATE = 600, 10, 40
pytestmark = pytest.mark.clause("4.12", "4.13")


class Time:
    """An event loop's clock, and what it is told of a phase."""

    def __init__(self, accepted: tuple[str, ...] = (), run: bytes = b"a run of 4 silos") -> None:
        message = plan_message(4, threshold=3, run=run)
        message.preparation_seconds, message.phase_seconds = PREPARATION, SECONDS
        message.least_bytes_per_second = RATE
        self.round = Round(checked_plan(message), 0)
        self.session: AggregatorSession = DoubleMaskingAggregator(self.round)
        world = World(self.round.plan, signing_keys(4))
        for silo in accepted:
            self.session.receive(silo, world.silos[silo].message())
        self.present = PresentSilos()
        self.now = 1000.0

    def enter(self, phase: Phase) -> PhaseClock:
        self.session.phase = phase
        self.clock = PhaseClock(self.session, self.present)
        return self.clock

    @property
    def awaited(self) -> tuple[str, ...]:
        return self.clock.waiting().awaited


def at(time: Time, work: Callable[[], None]) -> None:
    """Do work in an event loop that tells the test's time."""

    async def run() -> None:
        asyncio.get_running_loop().time = lambda: time.now  # type: ignore[method-assign]
        work()

    asyncio.run(run())


def test_every_silo_has_the_time_that_the_plan_gives_and_no_more_for_what_others_say() -> None:
    time = Time(accepted=(A, B))

    def work() -> None:
        assert time.enter(Phase.PLAN).seconds_left() == PREPARATION
        clock = time.enter(Phase.KEYS)
        assert clock.seconds_left() == SECONDS
        time.now += 7
        assert clock.seconds_left() == SECONDS - 7
        time.now += 3
        assert clock.seconds_left() == 0
        assert clock.reasons() == dict.fromkeys((C, D), f"silent for {SECONDS} seconds")

    at(time, work)


def test_new_words_prolong_the_time_of_the_silo_that_they_are_of_but_not_below_the_least_rate() -> None:
    time = Time(accepted=(A, B))
    size = sum(time.round.layout.lengths)

    def work() -> None:
        clock = time.enter(Phase.UPLOAD)
        assert clock.waiting().until - clock.waiting().since == timedelta(seconds=SECONDS + size / RATE)
        time.now += 2
        clock.brought(C, 4 * RATE)
        time.now += 9
        assert time.awaited == (C,)
        assert clock.seconds_left() == 1
        for _ in range(10):  # a trickle
            time.now += 0.5
            clock.brought(C, 1)
        assert time.awaited == ()
        assert clock.seconds_left() < 0
        assert clock.reasons() == {
            C: f"{4 * RATE + 10} bytes in 16 seconds: the plan's least is {RATE} a second",
            D: f"silent for {SECONDS} seconds",
        }

    at(time, work)


def test_a_phase_has_an_end_whatever_is_sent() -> None:
    time = Time()
    size = sum(time.round.layout.lengths)

    def work() -> None:
        clock = time.enter(Phase.UPLOAD)
        for _ in range(1000):
            time.now += 1
            for silo in (A, B, C, D):
                clock.brought(silo, size)
        assert 1000 - SECONDS - size / RATE - 1 < -clock.seconds_left() <= 1000 - SECONDS

    at(time, work)


def test_what_an_auditor_fetches_again_prolongs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(DoubleMaskingAggregator, "audited_bytes", {A: 1000, B: 1000, C: 1000, D: 1000})

    def work() -> None:
        clock = time.enter(Phase.AUDIT)
        time.now += 1
        clock.served(A, 0, 0, 400)
        assert clock.seconds_left() == SECONDS
        for again in ((0, 0), (0, 0)):
            time.now += 1
            clock.served(A, *again, 400)
        assert clock.seconds_left() == SECONDS - 2
        for piece in ((0, 1), (3, 0)):
            clock.served(A, *piece, 400)
            assert clock.seconds_left() == SECONDS
        time.now += 1
        clock.served(A, 2, 4, 400)
        assert clock.seconds_left() == SECONDS - 1

    at(time, work)


def test_nobody_waits_for_who_is_gone_or_declined_this_round() -> None:
    time, other = Time(accepted=(A, B, C)), Time(accepted=(A, B, C), run=b"another run of 4")

    def work() -> None:
        clock, elsewhere = time.enter(Phase.PLAN), PhaseClock(other.session, time.present)
        time.present.declined(D, time.session)
        assert clock.seconds_left() <= 0
        assert clock.reasons() == {D: "declined the round"}
        assert elsewhere.seconds_left() == PREPARATION, "it declined the other one"
        time.present.gone(D, "is revoked")
        assert elsewhere.seconds_left() <= 0
        assert elsewhere.reasons() == {D: "is revoked"}

    at(time, work)


def test_a_phase_that_too_few_can_still_come_to_is_over_at_once() -> None:
    time = Time(accepted=(A,))

    def work() -> None:
        clock = time.enter(Phase.PLAN)
        time.present.declined(D, time.session)
        assert clock.seconds_left() == PREPARATION
        time.present.gone(C, "its process has ended")
        assert clock.seconds_left() == 0, "A and B are fewer than three"
        assert clock.reasons()[B] == "too few others were left"

    at(time, work)


def test_who_was_lost_is_not_waited_for_as_if_it_were_preparing_until_it_asks() -> None:
    time = Time(accepted=(A, B))

    def work() -> None:
        time.session.dropped = {C: Phase.KEYS, D: Phase.PLAN}
        time.present.dropped(time.session.dropped)
        clock = time.enter(Phase.PLAN)
        assert clock.seconds_left() == SECONDS
        time.present.asked(D)
        assert clock.seconds_left() == PREPARATION
        time.now += SECONDS
        assert time.awaited == (D,)

    at(time, work)


def test_who_has_used_half_of_its_time_is_late() -> None:
    time = Time(accepted=(A, B))

    def work() -> None:
        clock = time.enter(Phase.UPLOAD)
        assert clock.waiting().late == ()
        assert clock.seconds_to_next() == SECONDS / 2
        time.now += SECONDS / 2
        clock.brought(C, 1000)
        waiting = clock.waiting()
        assert (waiting.awaited, waiting.late) == ((C, D), (D,))
        assert (waiting.arrived, waiting.expected) == (2, 4)
        assert 0 < clock.seconds_to_next() <= SECONDS / 2
        assert waiting.named(waiting.late)[:2] == (Phase.UPLOAD, D)

    at(time, work)
