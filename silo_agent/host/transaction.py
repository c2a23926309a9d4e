"""One change to a SQLite file: on disk, whole, and nobody else's in between; or not there at all."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from crypto.errors import InputError


@contextmanager
def transaction(file: Path) -> Iterator[sqlite3.Connection]:
    """Opened for one change and closed after, so that several processes may share the file. Raises InputError."""
    try:
        with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = FULL")
            with database:  # commits, or rolls back what an error interrupts
                database.execute("BEGIN IMMEDIATE")
                yield database
    except sqlite3.Error as error:
        raise InputError(f"{file}: {error}", hint="is the state folder on a working local disk?") from None
