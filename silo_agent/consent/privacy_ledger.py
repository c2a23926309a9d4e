"""The privacy ledger: what each release tells of one unit of the text, a JSON line each, chained by hashes.

What was spent is never given back, and a ledger that is not what was written refuses every release: unlike the audit
log it goes on in no new file. The state store keeps its head. Whoever can write to the state folder can make ledger and
state store anew, and nothing here helps against that.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from crypto.errors import ReleaseRefused
from crypto.privacy.accountant import epsilon
from crypto.privacy.events import ExactEvent, GaussianEvent, PrivacyEvent
from silo_agent.consent.hash_chained_log import BrokenLine, HashChainedLog
from silo_agent.consent.state_store import STATE_FILE, StateStore

PRIVACY_FILE: Final = "privacy-ledger.jsonl"

RESTORE: Final = (
    "every round is refused until the file is back as it was; where it is lost, nobody knows what was spent, and a new "
    "epoch does not help: enrol with a new state folder, and calibrate on text of people of whom nothing was released"
)
"""What an administrator is told to do about a ledger that is not what was written."""


class TamperedPrivacyLedger(BrokenLine, ReleaseRefused):
    """A line of the privacy ledger is not what was written, or is gone. `line` counts from 1."""

    def __init__(self, file: Path, line: int, problem: str, *, hint: str = RESTORE) -> None:
        super().__init__(file, line, problem, hint=hint)


@dataclass(frozen=True)
class Spent:
    """What one round tells of one unit of the text."""

    round: bytes
    """The round's digest."""
    data: bytes
    """SHA-256 of the calibration file."""
    epoch: str
    """Which people the text is of, by the policy's name for them."""
    kind: str
    """The release kind, by its name: a ledger may have kinds that this version lacks."""
    events: tuple[PrivacyEvent, ...]


class PrivacyLedger:
    """The privacy ledger in a state folder. Several processes may use it."""

    def __init__(self, state: Path) -> None:
        """Open the state store in `state`; the ledger itself is made with its first line. Raises InputError."""
        self._log = HashChainedLog(state / PRIVACY_FILE, ("round", "data", "epoch", "kind"), TamperedPrivacyLedger)
        self._store = StateStore(state / STATE_FILE)

    def spent(self) -> list[Spent]:
        """Return everything that was ever spent, oldest first. Raises TamperedPrivacyLedger."""
        head = self._store.privacy_head()  # before the lines: one that is added in between is no error
        lines = list(self._log.lines()) if self._log.file.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            del lines[-1]  # half a line, whose round was never computed; the next charge puts it aside
        self._log.verified(lines, head)
        return self._spent(lines)

    def charge(self, spent: Spent, check: Callable[[Sequence[Spent]], None], now: datetime) -> None:
        """Enter what a round tells, and return when it is on disk. The same once more changes nothing.

        `check` gets what was spent before, and raises where the budget has no room; nobody else spends in between.
        Raises TamperedPrivacyLedger.
        """
        with self._log.locked() as descriptor:
            self._log.last_line(descriptor)
            lines = self._log.locked_lines(descriptor)
            head = self._log.verified(lines, self._store.privacy_head())
            earlier = self._spent(lines)
            if spent not in earlier:
                check(earlier)
                head = self._log.append(descriptor, head, _fields(spent), now)
            self._store.note_privacy_head(*head)  # also where a crash came before it

    def _spent(self, lines: Sequence[bytes]) -> list[Spent]:
        return [self._read(number, self._log.parsed(number, line)) for number, line in enumerate(lines, start=1)]

    def _read(self, number: int, fields: dict[str, Any]) -> Spent:
        try:
            round_, data = bytes.fromhex(fields["round"]), bytes.fromhex(fields["data"])
            return Spent(round_, data, fields["epoch"], fields["kind"], tuple(map(_event, fields["events"])))
        except (KeyError, TypeError, ValueError):
            problem = "says nothing of a release that this version knows"
            raise TamperedPrivacyLedger(self._log.file, number, problem) from None


@lru_cache
def _epsilon(events: tuple[PrivacyEvent, ...], delta: float) -> float:
    """Return what events come to. The same is asked every second while a plan waits."""
    return epsilon(events, delta)


def epsilon_of(spent: Iterable[Spent], delta: float, wanted: Sequence[PrivacyEvent] = ()) -> float:
    """Return the epsilon that what was spent, and is wanted beside, keeps at `delta`; infinity where none."""
    return _epsilon((*(event for release in spent for event in release.events), *wanted), delta)


def without_noise(spent: Iterable[Spent]) -> int:
    """Count the rounds that were released without noise."""
    return sum(ExactEvent() in release.events for release in spent)


def _fields(spent: Spent) -> dict[str, Any]:
    """Return a line's fields, as docs/formats.md has them."""
    events = [
        {"kind": "gaussian", "noise_multiplier": float(event.noise_multiplier), "releases": event.releases}
        if isinstance(event, GaussianEvent)
        else {"kind": "exact"}
        for event in spent.events
    ]
    own = {"epoch": spent.epoch, "kind": spent.kind, "events": events}
    return {"round": spent.round.hex(), "data": spent.data.hex(), **own}


def _event(fields: object) -> PrivacyEvent:
    """Return the event of a line. Raises ValueError where this version knows none such."""
    match fields:
        case {"kind": "exact"}:
            return ExactEvent()
        case {"kind": "gaussian", "noise_multiplier": float(multiplier), "releases": int(releases)} if (
            multiplier > 0 < releases
        ):
            return GaussianEvent(multiplier, releases)
    raise ValueError(fields)
