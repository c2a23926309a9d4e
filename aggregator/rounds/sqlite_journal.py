"""A round's journal as a SQLite file in the round's folder."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aggregator.rounds.journal import Event
from crypto.errors import InputError
from silo_agent.host.sqlite_file import LOCKED_SECONDS

JOURNAL_FILE: Final = "journal.sqlite"
SCHEMA: Final = 1
"""Which table a file has, kept in it as `PRAGMA user_version`. A file without a number (0) is new, or has table 1."""

ROUND: Final = "round"
"""The kind of the first row, which says whose journal it is: its data is the round's digest."""


class SqliteJournal:
    """A Journal in a file that no other aggregator has open."""

    def __init__(self, folder: Path, round_digest: bytes) -> None:
        self._file = folder / JOURNAL_FILE
        with _as_os_error():
            self._database = sqlite3.connect(
                self._file, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._open(round_digest)
            except (InputError, sqlite3.Error):
                self.close()
                raise

    def note(self, kind: str, silo: str, data: bytes) -> None:
        """Add an event, as Journal says."""
        with _as_os_error():
            self._database.execute("INSERT INTO events (kind, silo, data) VALUES (?, ?, ?)", (kind, silo, data))

    def events(self) -> list[Event]:
        """Return what was noted, in order, as Journal says."""
        with _as_os_error():
            return list(self._rows())[1:]

    def close(self, *, is_over: bool = False) -> None:
        """End the journal, as Journal says."""
        with _as_os_error():
            self._database.close()
        if is_over:
            for suffix in ("-wal", "-shm", ""):
                self._file.with_name(JOURNAL_FILE + suffix).unlink(missing_ok=True)

    def _open(self, round_digest: bytes) -> None:
        [(schema,)] = self._database.execute("PRAGMA user_version")
        if schema > SCHEMA:
            raise InputError(
                f"{self._file}: has tables of version {schema}, and this program knows version {SCHEMA}",
                hint="a later version of sparsilo wrote it: run that version, or a later one",
            )
        self._database.execute("CREATE TABLE IF NOT EXISTS events (kind TEXT, silo TEXT, data BLOB) STRICT")
        begun = (ROUND, "", round_digest)
        if next(self._rows(), begun) != begun:
            raise InputError(
                f"{self._file}: is the journal of another round", hint="give every round a folder of its own"
            )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if schema != SCHEMA:
            self._database.execute(f"PRAGMA user_version = {SCHEMA}")
        if next(self._rows(), None) is None:
            self.note(*begun)

    def _rows(self) -> Iterator[Event]:
        return iter(self._database.execute("SELECT kind, silo, data FROM events ORDER BY rowid"))


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"{JOURNAL_FILE}: {error}") from None
