"""How long the present phase waits for each silo (docs/protocol.md, 4.12 and 4.13).

A silo has its own time, which only what it brings for the first time prolongs, and that no further than the plan's
least rate allows: nobody can hold a round open.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from aggregator.rounds.present_silos import PresentSilos
from crypto.backends.backend_spec import backend_spec
from crypto.names import Phase
from crypto.secagg.session import AggregatorSession

LATE_PART: Final = 0.5
"""A silo is late when so much of the plan's patience is over since it brought something new."""


@dataclass(frozen=True)
class Waiting:
    """Whom a phase waits for at a moment, and until when."""

    phase: Phase
    since: datetime
    until: datetime
    """The latest end that the phase can have."""
    arrived: int
    expected: int
    awaited: tuple[str, ...]
    late: tuple[str, ...]
    """Those of the awaited that have used up half of their time."""

    def as_dict(self) -> dict[str, object]:
        """Return the fields as a JSON document has them."""
        since, until = (moment.isoformat(timespec="seconds") for moment in (self.since, self.until))
        return {**asdict(self), "since": since, "until": until}

    def named(self, late: Sequence[str]) -> tuple[Phase, str, str]:
        """Return phase, silos and end as a log line has them."""
        return self.phase, ", ".join(late), self.until.isoformat(timespec="seconds")


class PhaseClock:
    """The time of every silo in one phase, which begins now. Lives in one event loop."""

    def __init__(self, session: AggregatorSession, present: PresentSilos) -> None:
        self._session, self._present = session, present
        self._now = asyncio.get_running_loop().time
        self._began, self._since = self._now(), datetime.now(UTC)
        self._phase = session.phase
        self._moved: dict[str, float] = {}
        self._bytes: Counter[str] = Counter()
        self._served: dict[str, tuple[int, int]] = {}
        self._most = self._most_bytes()

    def brought(self, silo: str, size: int) -> None:
        """So many bytes of a silo came for the first time."""
        self._moved[silo] = self._now()
        self._bytes[silo] += size

    def served(self, silo: str, chunk: int, piece: int, size: int) -> None:
        """An auditor was served a piece of a chunk. It asks in ascending order: only what is beyond the last is new."""
        if (chunk, piece) > self._served.get(silo, (-1, -1)):
            self._served[silo] = chunk, piece
            self.brought(silo, size)

    def seconds_left(self) -> float:
        """Return how long the phase still waits; 0 or less where it waits for nobody, or for too few to go on with."""
        arrived, missing = self._session.arrived, list(self._missing())
        if len(arrived) + len(missing) < self._session.fewest:
            return 0
        return max((self._until(silo) for silo in missing), default=0) - self._now()

    def seconds_to_next(self) -> float:
        """Return in how many seconds, at the earliest, a silo is late or its time is over."""
        moments = (
            self._until(silo) - part * self._patience(silo) for silo in self._awaited() for part in (LATE_PART, 0)
        )
        return min((moment - self._now() for moment in moments if moment > self._now()), default=0)

    def waiting(self) -> Waiting:
        """Return whom the phase waits for at this moment."""
        awaited = tuple(self._awaited())
        latest = max((self._latest(silo) for silo in awaited), default=0)
        return Waiting(
            *(self._phase, self._since, self._since + timedelta(seconds=latest)),
            *(len(self._session.arrived), len(self._session.expected), awaited),
            tuple(silo for silo in awaited if self._until(silo) - self._now() <= LATE_PART * self._patience(silo)),
        )

    def reasons(self) -> dict[str, str]:
        """Return why each silo that has not spoken will be dropped if the phase closes now."""
        return {silo: self._reason(silo) for silo in self._session.expected if silo not in self._session.arrived}

    def _reason(self, silo: str) -> str:
        if why := self._present.why_not(silo, self._session):
            return why
        if self._until(silo) > self._now():
            return "too few others were left"
        patience, brought = self._patience(silo), self._bytes[silo]
        if self._moved.get(silo, self._began) + patience <= self._now():
            return f"silent for {patience} seconds"
        rate = self._session.round.plan.least_bytes_per_second
        return f"{brought} bytes in {self._now() - self._began:.0f} seconds: the plan's least is {rate} a second"

    def _missing(self) -> Iterator[str]:
        """The silos that have not spoken and may still do."""
        for silo in self._session.expected:
            if silo not in self._session.arrived and not self._present.why_not(silo, self._session):
                yield silo

    def _awaited(self) -> Iterator[str]:
        """Those of them whose time is not over."""
        return (silo for silo in self._missing() if self._until(silo) > self._now())

    def _patience(self, silo: str) -> int:
        plan = self._session.round.plan.message
        # A round a block would otherwise wait for a lost silo's preparation as often as there are blocks.
        prepares = self._phase is Phase.PLAN and not self._present.is_lost(silo)
        return plan.preparation_seconds if prepares else plan.phase_seconds

    def _until(self, silo: str) -> float:
        """When a silo's time is over, on the loop's clock."""
        brought = min(self._bytes[silo], self._most.get(silo, 0))
        allowed = self._began + brought / self._session.round.plan.least_bytes_per_second
        return self._patience(silo) + min(self._moved.get(silo, self._began), allowed)

    def _latest(self, silo: str) -> float:
        """How many seconds after the beginning a silo's time is over, whatever it brings."""
        return self._patience(silo) + self._most.get(silo, 0) / self._session.round.plan.least_bytes_per_second

    def _most_bytes(self) -> Mapping[str, int]:
        """How many bytes the phase has for each silo."""
        round_ = self._session.round
        if self._phase is Phase.UPLOAD:
            size = sum(backend_spec(round_.plan.backend).upload_lengths(round_.layout))
            return dict.fromkeys(self._session.expected, size)
        return self._session.audited_bytes if self._phase is Phase.AUDIT else {}
