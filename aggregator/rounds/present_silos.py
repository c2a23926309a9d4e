"""Which silos are there: who called and when, whom a phase still waits for, and how long."""

import asyncio
from time import monotonic
from typing import Final

from crypto.names import Phase
from crypto.secagg.session import AggregatorSession

CONNECTED_SECONDS: Final = 90.0
"""A silo that waits calls every 30 seconds."""


class PresentSilos:
    """What is known of every silo beside what it says, and the clock of the present phase.

    A silo is *gone* once its process has ended, *lost* from the round that drops it until it asks for another, and has
    *declined* the one round that it will not take part in.
    """

    def __init__(self) -> None:
        self._called: dict[str, float] = {}
        self._gone: set[str] = set()
        self._lost: set[str] = set()
        self._declined: set[tuple[bytes, str]] = set()
        self._last_arrival = 0.0

    def called(self, silo: str) -> None:
        """A call of this silo was heard."""
        self._called[silo] = monotonic()

    def connected(self) -> int:
        """Return how many silos were heard within CONNECTED_SECONDS; may be asked from any thread."""
        return sum(monotonic() - at <= CONNECTED_SECONDS for at in tuple(self._called.values()))

    def asked(self, silo: str) -> None:
        """A silo asked for a round: it is not lost any more."""
        self._lost.discard(silo)

    def gone(self, silo: str) -> None:
        """A silo's process has ended: nobody waits for it, in this round or a later one."""
        self._gone.add(silo)

    def dropped(self, session: AggregatorSession) -> None:
        """A round has ended, and whomever it dropped is lost."""
        self._lost |= session.dropped.keys()

    def declined(self, silo: str, session: AggregatorSession) -> None:
        """A silo declined a round: nobody waits for it there."""
        self._declined.add((session.round.digest, silo))

    def may_begin(self, silo: str, session: AggregatorSession) -> bool:
        """Return whether a round is still to be offered to a silo: it neither accepted nor declined it."""
        declined = (session.round.digest, silo) in self._declined
        return session.phase is Phase.PLAN and silo in session.expected and silo not in session.arrived and not declined

    def arrived(self) -> None:
        """A phase begins, or something new of it came: it waits anew for as long as the plan allows."""
        self._last_arrival = asyncio.get_running_loop().time()

    def seconds_left(self, session: AggregatorSession) -> float:
        """Return how long the phase still waits; 0 or less where nobody is left to wait for, or the time is up."""
        missing = set(session.expected) - session.arrived
        if all(silo in self._gone or (session.round.digest, silo) in self._declined for silo in missing):
            return 0
        plan = session.round.plan.message
        # A round a block would otherwise wait for a lost silo's preparation as often as there are blocks.
        prepares = session.phase is Phase.PLAN and not missing <= self._lost
        patience = plan.preparation_seconds if prepares else plan.phase_seconds
        return self._last_arrival + patience - asyncio.get_running_loop().time()
