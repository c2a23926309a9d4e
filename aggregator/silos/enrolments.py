"""Who was invited, enrolled and revoked, and who signed which roster: one SQLite file, which `serve` and the commands
beside it share. Every method returns when its change is on disk.
"""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from crypto.errors import IdentityError, InputError
from silo_agent.host.transaction import transaction

ENROLMENTS_FILE: Final = "enrolments.sqlite"

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS invitations (
    serial TEXT PRIMARY KEY, silo TEXT NOT NULL, request BLOB, certificate BLOB
) STRICT""",
    """CREATE TABLE IF NOT EXISTS silos (
    silo TEXT PRIMARY KEY, signing_key BLOB NOT NULL UNIQUE, enrolled TEXT NOT NULL, revoked TEXT
) STRICT""",
    """CREATE TABLE IF NOT EXISTS signatures (
    roster BLOB NOT NULL, silo TEXT NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (roster, silo)
) STRICT""",
)


@dataclass(frozen=True)
class Enrolled:
    """A silo that has used its invitation."""

    silo: str
    signing_key: bytes
    """Public."""
    enrolled: datetime
    revoked: datetime | None


class Enrolments:
    """Opened for every change: several processes may use it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / ENROLMENTS_FILE
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with transaction(self._file) as database:
            for table in _TABLES:
                database.execute(table)

    def invite(self, silo: str, serial: int) -> None:
        """Remember that the certificate with this serial number may enrol `silo`, once; an earlier invitation of the
        silo that was not used is void. Raises InputError where the silo is enrolled and not revoked: its key would
        change under the others' pinned rosters.
        """
        with transaction(self._file) as database:
            if _is_enrolled(database, silo):
                hint = f"to give it new keys: aggregator silos revoke {silo}"
                raise InputError(f"--silo: {silo} is enrolled", hint=hint)
            database.execute("DELETE FROM invitations WHERE silo = ? AND request IS NULL", (silo,))
            database.execute("INSERT INTO invitations (serial, silo) VALUES (?, ?)", (f"{serial:x}", silo))

    def enroll(
        self, silo: str, serial: int, signing_key: bytes, request: bytes, certificate: bytes, now: datetime
    ) -> bytes:
        """Use up an invitation; the certificate that the silo gets: `certificate`, or the one that it got before for
        the same `request`, whose answer it may have lost.

        Raises IdentityError: no such invitation, used with another request, or another silo's signing key.
        """
        with transaction(self._file) as database:
            query = "SELECT request, certificate FROM invitations WHERE serial = ? AND silo = ?"
            found = database.execute(query, (f"{serial:x}", silo)).fetchone()
            if found is None:
                raise IdentityError("this aggregator did not give out the invitation")
            used_for, issued = found
            if used_for is not None:
                if used_for != request:
                    raise IdentityError("the invitation was used before", hint="ask for a new one")
                return bytes(issued)
            if _is_enrolled(database, silo):
                raise IdentityError(f"{silo} is enrolled", hint="to enrol again it has to be revoked first")
            taken = database.execute("SELECT silo FROM silos WHERE signing_key = ? AND silo != ?", (signing_key, silo))
            if taken.fetchone():
                raise IdentityError("the signing key is another silo's", hint="every silo makes its own")
            database.execute(
                "INSERT OR REPLACE INTO silos VALUES (?, ?, ?, NULL)", (silo, signing_key, now.isoformat())
            )
            values = (request, certificate, f"{serial:x}")
            database.execute("UPDATE invitations SET request = ?, certificate = ? WHERE serial = ?", values)
        return certificate

    def silos(self) -> list[Enrolled]:
        """All that ever enrolled, ascending by name."""
        with transaction(self._file) as database:
            rows = database.execute("SELECT * FROM silos ORDER BY silo").fetchall()
        return [
            Enrolled(silo, key, datetime.fromisoformat(enrolled), revoked and datetime.fromisoformat(revoked))
            for silo, key, enrolled, revoked in rows
        ]

    def roster(self) -> dict[str, bytes]:
        """Public signing keys of those that are enrolled and not revoked."""
        return {each.silo: each.signing_key for each in self.silos() if each.revoked is None}

    def revoke(self, silo: str, now: datetime) -> None:
        """From now on nothing that `silo` calls is answered. Raises InputError where it is not enrolled."""
        with transaction(self._file) as database:
            change = "UPDATE silos SET revoked = ? WHERE silo = ? AND revoked IS NULL"
            if not database.execute(change, (now.astimezone(UTC).isoformat(), silo)).rowcount:
                raise InputError(f"{silo}: is not enrolled, or was revoked before")

    def sign_roster(self, fingerprint: bytes, silo: str, signature: bytes) -> None:
        """Keep a member's signature."""
        with transaction(self._file) as database:
            database.execute("INSERT OR REPLACE INTO signatures VALUES (?, ?, ?)", (fingerprint, silo, signature))

    def signatures(self, fingerprint: bytes) -> dict[str, bytes]:
        """The kept signatures of one roster."""
        with transaction(self._file) as database:
            query = "SELECT silo, signature FROM signatures WHERE roster = ?"
            return dict(database.execute(query, (fingerprint,)).fetchall())


def _is_enrolled(database: sqlite3.Connection, silo: str) -> bool:
    found = database.execute("SELECT 1 FROM silos WHERE silo = ? AND revoked IS NULL", (silo,)).fetchone()
    return found is not None
