"""Which silos are there: who called and when, and of whom it is known that they will not come."""

from collections.abc import Collection
from time import monotonic
from typing import Final

from crypto.names import Phase
from crypto.secagg.session import AggregatorSession

CONNECTED_SECONDS: Final = 90.0
"""A silo that waits calls every 30 seconds."""


class PresentSilos:
    """What is known of every silo beside what it says.

    A silo is *gone* once its process has ended or it is revoked, *lost* from the round that drops it until it asks for
    another, and has *declined* the one round that it will not take part in.
    """

    def __init__(self) -> None:
        self._called: dict[str, float] = {}
        self._gone: dict[str, str] = {}
        self._lost: set[str] = set()
        self._declined: set[tuple[bytes, str]] = set()

    def called(self, silo: str) -> None:
        """A call of this silo was heard."""
        self._called[silo] = monotonic()

    def connected(self) -> int:
        """Return how many silos were heard within CONNECTED_SECONDS; may be asked from any thread."""
        return sum(monotonic() - at <= CONNECTED_SECONDS for at in tuple(self._called.values()))

    def asked(self, silo: str) -> None:
        """A silo asked for a round: it is not lost any more."""
        self._lost.discard(silo)

    def gone(self, silo: str, why: str) -> None:
        """A silo is gone: nobody waits for it, in this round or a later one."""
        self._gone[silo] = why

    def returned(self, silo: str) -> None:
        """A silo that was gone has called again: phases wait for it."""
        self._gone.pop(silo, None)

    def why_not(self, silo: str, session: AggregatorSession) -> str:
        """Return why nobody waits for a silo in a round; nothing where it may come."""
        declined = (session.round.digest, silo) in self._declined
        return self._gone.get(silo) or ("declined the round" if declined else "")

    def is_lost(self, silo: str) -> bool:
        """Return whether a silo was dropped, and has asked for no round since."""
        return silo in self._lost

    def dropped(self, silos: Collection[str]) -> None:
        """A round that dropped these silos has ended: they are lost."""
        self._lost |= {*silos}

    def declined(self, silo: str, session: AggregatorSession) -> None:
        """A silo declined a round: nobody waits for it there."""
        self._declined.add((session.round.digest, silo))

    def may_begin(self, silo: str, session: AggregatorSession) -> bool:
        """Return whether a round is still to be offered to a silo: it neither accepted nor declined it."""
        declined = (session.round.digest, silo) in self._declined
        return session.phase is Phase.PLAN and silo in session.expected and silo not in session.arrived and not declined
