"""What an agent must not forget when it is killed: what it said in every round, and its release ledger. One SQLite
file; every method returns when its change is on disk.
"""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Final

from crypto.errors import InputError, ReleaseRefused
from crypto.names import Phase
from silo_agent.consent.ledger import Release, check_release, check_survivors
from silo_agent.host.transaction import transaction

STATE_FILE: Final = "agent.sqlite"

_SAID = """CREATE TABLE IF NOT EXISTS said (
    round BLOB NOT NULL, phase TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (round, phase)
) STRICT"""
_RELEASES = """CREATE TABLE IF NOT EXISTS releases (
    round BLOB PRIMARY KEY, question BLOB NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL,
    roster TEXT NOT NULL, survivors TEXT NOT NULL, colluders INTEGER NOT NULL, block INTEGER
) STRICT"""
_OFFERS = """CREATE TABLE IF NOT EXISTS offers (
    plan BLOB PRIMARY KEY, encoded BLOB NOT NULL, first_offered TEXT NOT NULL, last_offered TEXT NOT NULL,
    decision TEXT, by TEXT, reason TEXT, decided TEXT
) STRICT"""
_AUDIT_HEAD = """CREATE TABLE IF NOT EXISTS audit_head (
    only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL, last TEXT NOT NULL
) STRICT"""


class Decision(StrEnum):
    """What this silo, a person or its policy, made of a plan."""

    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True)
class OfferedPlan:
    """A plan that the aggregator offered. Times are UTC, as ISO 8601."""

    digest: bytes
    encoded: bytes
    first_offered: str
    last_offered: str
    decision: str | None
    by: str | None
    reason: str | None
    decided: str | None


class StateStore:
    """Opened for every change, so that two agents that share a folder by mistake still keep one promise."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with transaction(self._file) as database:
            database.execute(_SAID)
            database.execute(_RELEASES)
            database.execute(_OFFERS)
            database.execute(_AUDIT_HEAD)
            if "block" not in {column[1] for column in database.execute("PRAGMA table_info(releases)")}:
                database.execute("ALTER TABLE releases ADD COLUMN block INTEGER")  # a ledger of version 0.1

    def begin(self, wanted: Release) -> None:
        """Before anything is computed for a round. Raises ReleaseRefused where the ledger forbids it, or where this
        silo already spoke in the round: its keys are gone with the process that made them.
        """
        with transaction(self._file) as database:
            if database.execute("SELECT 1 FROM said WHERE round = ?", (wanted.round,)).fetchone():
                raise ReleaseRefused(
                    f"this silo already took part in round {wanted.round.hex()[:16]}",
                    hint="a round's keys live in memory only; after a restart it goes on without this silo",
                )
            check_release(wanted, _releases(database))

    def say(self, round_digest: bytes, phase: Phase, message: bytes) -> None:
        """Before a message is sent: in a phase of a round this silo says one thing (4.3). Raises ReleaseRefused."""
        with transaction(self._file) as database:
            digest = sha256(message).digest()
            row = (round_digest, phase, digest)
            database.execute("INSERT OR IGNORE INTO said VALUES (?, ?, ?)", row)
            if not database.execute("SELECT 1 FROM said WHERE (round, phase, digest) = (?, ?, ?)", row).fetchone():
                raise ReleaseRefused(f"this silo said something else in phase {phase} of this round")

    def release(self, wanted: Release) -> None:
        """Before the first masked word is sent. Raises ReleaseRefused."""
        with transaction(self._file) as database:
            check_release(wanted, _releases(database))
            row = (wanted.round, wanted.question, wanted.kind, wanted.data, ",".join(wanted.roster), "")
            values = (*row, wanted.colluders, wanted.block)
            database.execute("INSERT OR IGNORE INTO releases VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def survive(self, wanted: Release, survivors: tuple[str, ...]) -> None:
        """Before survivors are signed. Raises ReleaseRefused."""
        with transaction(self._file) as database:
            check_survivors(wanted, survivors, _releases(database))
            database.execute("UPDATE releases SET survivors = ? WHERE round = ?", (",".join(survivors), wanted.round))

    def releases(self) -> list[Release]:
        """The ledger, oldest first."""
        with transaction(self._file) as database:
            return _releases(database)

    def forget(self, round_digest: bytes) -> None:
        """Take a release out of the ledger; its round is still one in which this silo has spoken. Raises InputError."""
        with transaction(self._file) as database:
            if not database.execute("DELETE FROM releases WHERE round = ?", (round_digest,)).rowcount:
                raise InputError(f"{self._file}: has no release in round {round_digest.hex()}")

    def offer(self, digest: bytes, encoded: bytes, now: datetime) -> bool:
        """A plan is offered, or still is. Whether it was not before."""
        with transaction(self._file) as database:
            row = (digest, encoded, _iso(now), _iso(now))
            query = "INSERT OR IGNORE INTO offers (plan, encoded, first_offered, last_offered) VALUES (?, ?, ?, ?)"
            is_new = bool(database.execute(query, row).rowcount)
            database.execute("UPDATE offers SET last_offered = ? WHERE plan = ?", (_iso(now), digest))
            return is_new

    def decide(self, digest: bytes, decision: Decision, by: str, now: datetime, reason: str = "") -> None:
        """Once and for all; the same again changes nothing. Raises InputError where the plan was decided on otherwise,
        or was never offered.
        """
        with transaction(self._file) as database:
            change = (
                "UPDATE offers SET decision = ?, by = ?, reason = ?, decided = ? WHERE plan = ? AND decision IS NULL"
            )
            database.execute(change, (decision, by, reason, _iso(now), digest))
            found = database.execute("SELECT decision, by FROM offers WHERE plan = ?", (digest,)).fetchone()
            if found is None or found[0] != decision:
                was = f"was {found[0]} by {found[1]} before" if found else "was never offered"
                raise InputError(f"plan {digest.hex()[:16]}: {was}")

    def offers(self) -> list[OfferedPlan]:
        """Every plan that was ever offered, oldest first."""
        with transaction(self._file) as database:
            return [OfferedPlan(*row) for row in database.execute("SELECT * FROM offers ORDER BY rowid")]

    def decision(self, digest: bytes) -> Decision | None:
        """What was decided on a plan."""
        with transaction(self._file) as database:
            found = database.execute("SELECT decision FROM offers WHERE plan = ?", (digest,)).fetchone()
            return Decision(found[0]) if found and found[0] else None

    def undecided(self, since: datetime) -> int:
        """How many plans wait for a decision, and were offered after `since`."""
        with transaction(self._file) as database:
            query = "SELECT COUNT(*) FROM offers WHERE decision IS NULL AND last_offered >= ?"
            [count] = database.execute(query, (_iso(since),)).fetchone()
            return int(count)

    def audit_head(self) -> tuple[int, str] | None:
        """Number and hash of the last line of the audit log; None before the first."""
        with transaction(self._file) as database:
            found = database.execute("SELECT count, last FROM audit_head").fetchone()
            return (int(found[0]), str(found[1])) if found else None

    def note_audit_head(self, count: int, last: str) -> None:
        """After the line is on disk."""
        with transaction(self._file) as database:
            database.execute("INSERT OR REPLACE INTO audit_head VALUES (1, ?, ?)", (count, last))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _releases(database: sqlite3.Connection) -> list[Release]:
    rows = database.execute("SELECT * FROM releases ORDER BY rowid")
    return [
        Release(
            *(round_, question, kind, data),
            tuple(roster.split(",")),
            tuple(filter(None, survivors.split(","))),
            *(colluders, block),
        )
        for round_, question, kind, data, roster, survivors, colluders, block in rows
    ]
