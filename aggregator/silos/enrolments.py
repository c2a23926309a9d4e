"""Who was invited, enrolled and revoked, and who signed which roster: one SQLite file, which `serve` and the commands
beside it share.

It is opened for each change. Every method returns when its change is on disk.
"""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from crypto.errors import IdentityError, InputError
from silo_agent.host.sqlite_file import LOCKED_SECONDS, bring_up_to_date, transaction

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


def _first_tables(database: sqlite3.Connection) -> None:
    """Make the tables of version 1, unless a file from before there were versions has them."""
    for table in _TABLES:
        database.execute(table)


def _certificate_keys(database: sqlite3.Connection) -> None:
    """Give each silo the key of the one certificate that it is heard with. Nobody knows which one it was: it is heard
    again once it announces one.
    """
    database.execute("ALTER TABLE silos ADD COLUMN certificate_key BLOB")


_STEPS: Final = (_first_tables, _certificate_keys)


@dataclass(frozen=True)
class Enrolled:
    """A silo that has used its invitation."""

    silo: str
    signing_key: bytes
    """The silo's public signing key."""
    certificate_key: bytes | None
    """SHA-256 of the key of the only certificate that it is heard with; None where it has announced none yet."""
    enrolled: datetime
    """When it enrolled."""
    revoked: datetime | None
    """When it was revoked; None where it was not."""


class Enrolments:
    """The enrolments in an aggregator's state folder."""

    def __init__(self, folder: Path) -> None:
        """Make the file, or bring it up to date. Raises InputError where it cannot be opened or is too new."""
        self._file = folder / ENROLMENTS_FILE
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        bring_up_to_date(self._file, _STEPS)

    def invite(self, silo: str, serial: int) -> None:
        """Record that the certificate with this serial number may enrol `silo`, once.

        An earlier invitation of the silo that was not used is void. Raises InputError where the silo is enrolled and
        not revoked: its key would change under the others' pinned rosters.
        """
        with transaction(self._file) as database:
            if _is_enrolled(database, silo):
                hint = f"to give it new keys: aggregator silos revoke {silo}"
                raise InputError(f"--silo: {silo} is enrolled", hint=hint)
            database.execute("DELETE FROM invitations WHERE silo = ? AND request IS NULL", (silo,))
            database.execute("INSERT INTO invitations (serial, silo) VALUES (?, ?)", (f"{serial:x}", silo))

    def enroll(self, silo: Enrolled, serial: int, request: bytes, certificate: bytes) -> bytes:
        """Use up an invitation; return the certificate that the silo gets.

        That is `certificate`, or the one that it got before for the same `request`, whose answer it may have lost.
        Raises IdentityError where the aggregator gave out no such invitation, it was used with another request, the
        silo is enrolled, the signing key is another silo's, or one of the keys is that of the enrolment before.
        """
        with transaction(self._file) as database:
            query = "SELECT request, certificate FROM invitations WHERE serial = ? AND silo = ?"
            invitation = database.execute(query, (f"{serial:x}", silo.silo)).fetchone()
            if invitation is None:
                raise IdentityError("this aggregator did not give out the invitation")
            used_for, issued = invitation
            if used_for is not None:
                if used_for != request:
                    raise IdentityError("the invitation was used before", hint="ask for a new one")
                return bytes(issued)
            if _is_enrolled(database, silo.silo):
                raise IdentityError(f"{silo.silo} is enrolled", hint="to enrol again it has to be revoked first")
            query = "SELECT 1 FROM silos WHERE signing_key = ? OR (silo = ? AND certificate_key = ?)"
            if database.execute(query, (silo.signing_key, silo.silo, silo.certificate_key)).fetchone():
                raise IdentityError(
                    "the signing key or the certificate's key was enrolled before", hint="make new ones"
                )
            database.execute(
                "INSERT OR REPLACE INTO silos (silo, signing_key, certificate_key, enrolled) VALUES (?, ?, ?, ?)",
                (silo.silo, silo.signing_key, silo.certificate_key, silo.enrolled.isoformat()),
            )
            values = (request, certificate, f"{serial:x}")
            database.execute("UPDATE invitations SET request = ?, certificate = ? WHERE serial = ?", values)
        return certificate

    def silos(self, locked_seconds: float = LOCKED_SECONDS) -> list[Enrolled]:
        """Return every silo that ever enrolled, ascending by name. Raises InputError where the file cannot be read."""
        with transaction(self._file, locked_seconds) as database:
            query = "SELECT silo, signing_key, certificate_key, enrolled, revoked FROM silos ORDER BY silo"
            rows = database.execute(query).fetchall()
        return [
            Enrolled(silo, key, heard, datetime.fromisoformat(enrolled), revoked and datetime.fromisoformat(revoked))
            for silo, key, heard, enrolled, revoked in rows
        ]

    def roster(self) -> dict[str, bytes]:
        """Return the public signing keys, by silo, of those that are enrolled and not revoked."""
        return {enrolled.silo: enrolled.signing_key for enrolled in self.silos() if enrolled.revoked is None}

    def announce(self, silo: Enrolled, certificate_key: bytes) -> None:
        """Record that a silo is heard with this certificate key from now on, and with no other.

        Nothing happens where it was revoked, or enrolled anew, in the meantime.
        """
        with transaction(self._file) as database:
            change = "UPDATE silos SET certificate_key = ? WHERE signing_key = ? AND revoked IS NULL"
            database.execute(change, (certificate_key, silo.signing_key))

    def revoke(self, silo: str, now: datetime) -> None:
        """Record that nothing that `silo` calls is answered any more. Raises InputError where it is not enrolled."""
        with transaction(self._file) as database:
            change = "UPDATE silos SET revoked = ? WHERE silo = ? AND revoked IS NULL"
            if not database.execute(change, (now.astimezone(UTC).isoformat(), silo)).rowcount:
                raise InputError(f"{silo}: is not enrolled, or was revoked before")

    def sign_roster(self, fingerprint: bytes, silo: str, signature: bytes) -> None:
        """Keep a silo's signature of the roster with this fingerprint."""
        with transaction(self._file) as database:
            query = "INSERT OR REPLACE INTO signatures (roster, silo, signature) VALUES (?, ?, ?)"
            database.execute(query, (fingerprint, silo, signature))

    def signatures(self, fingerprint: bytes) -> dict[str, bytes]:
        """Return the kept signatures, by silo, of the roster with this fingerprint."""
        with transaction(self._file) as database:
            query = "SELECT silo, signature FROM signatures WHERE roster = ?"
            return dict(database.execute(query, (fingerprint,)).fetchall())


def _is_enrolled(database: sqlite3.Connection, silo: str) -> bool:
    query = "SELECT 1 FROM silos WHERE silo = ? AND revoked IS NULL"
    return database.execute(query, (silo,)).fetchone() is not None
