"""What an aggregator must not forget when it is killed: what silos said, and which phases it closed.

A session is a pure function of those, so a restarted aggregator feeds them to a new one and stands where it stood, with
the same answers. One SQLite file a round; an event is on disk when `note` returns.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from crypto.errors import InputError

SPOKE, UPLOADED, CLOSED = "spoke", "uploaded", "closed"


class Journal:
    """Events of one round, in order: (kind, silo, data). The first is the round's digest."""

    def __init__(self, file: Path, round_digest: bytes) -> None:
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS events (kind TEXT, silo TEXT, data BLOB) STRICT")
        if not next(self._all(), None):
            self.note("round", "", round_digest)
        if next(self._all()) != ("round", "", round_digest):
            self.close()
            raise InputError(f"{file}: is the journal of another round", hint="give every round a folder of its own")

    def note(self, kind: str, silo: str, data: bytes) -> None:
        """One more event."""
        self._database.execute("INSERT INTO events VALUES (?, ?, ?)", (kind, silo, data))

    def events(self) -> list[tuple[str, str, bytes]]:
        """What was noted before, in order."""
        return list(self._all())[1:]

    def close(self) -> None:
        """No more events."""
        self._database.close()

    def _all(self) -> Iterator[tuple[str, str, bytes]]:
        return iter(self._database.execute("SELECT kind, silo, data FROM events ORDER BY rowid"))
