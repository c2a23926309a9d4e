"""What an aggregator must not forget when it is killed: what silos said, and which phases it closed.

A session is a pure function of those, so a restarted aggregator feeds them to a new one and stands where it stood, with
the same answers. One SQLite file a round; an event is on disk when `note` returns.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crypto.errors import InputError

SCHEMA: Final = 1
"""Which table a file has, kept in it as `PRAGMA user_version`. A file without a number (0) is new, or has table 1."""

ROUND, SPOKE, UPLOADED, CLOSED = "round", "spoke", "uploaded", "closed"
"""What happened, and its data: a round began (its digest), a silo spoke (its message), a silo's upload is whole (its
Merkle root), a phase closed (nothing).
"""


class Journal:
    """A journal holds the events of one round, in order: (kind, silo, data). The first says which round it is."""

    def __init__(self, file: Path, round_digest: bytes) -> None:
        """Open the file, or begin it. Raises sqlite3.Error, and InputError where it is another round's or has another
        schema: it is then as it was.
        """
        self._database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        try:
            self._open(file, round_digest)
        except (InputError, sqlite3.Error):
            self.close()
            raise

    def note(self, kind: str, silo: str, data: bytes) -> None:
        """Add an event. Raises sqlite3.Error where it is not on disk."""
        self._database.execute("INSERT INTO events (kind, silo, data) VALUES (?, ?, ?)", (kind, silo, data))

    def events(self) -> list[tuple[str, str, bytes]]:
        """Return what was noted before, in order, without the round's digest."""
        return list(self._all())[1:]

    def close(self) -> None:
        """Close the file: nothing can be noted any more."""
        self._database.close()

    def _open(self, file: Path, round_digest: bytes) -> None:
        [(schema,)] = self._database.execute("PRAGMA user_version")
        if schema > SCHEMA:
            raise InputError(
                f"{file}: has tables of version {schema}, and this program knows version {SCHEMA}",
                hint="a later version of sparsilo wrote it: run that version, or a later one",
            )
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS events (kind TEXT, silo TEXT, data BLOB) STRICT")
        begun = (ROUND, "", round_digest)
        if next(self._all(), begun) != begun:
            raise InputError(f"{file}: is the journal of another round", hint="give every round a folder of its own")
        if schema != SCHEMA:
            self._database.execute(f"PRAGMA user_version = {SCHEMA}")
        if next(self._all(), None) is None:
            self.note(*begun)

    def _all(self) -> Iterator[tuple[str, str, bytes]]:
        return iter(self._database.execute("SELECT kind, silo, data FROM events ORDER BY rowid"))
