"""SQLite files that several processes share: every change is whole, and a file says which version its tables have."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from crypto.errors import InputError

LOCKED_SECONDS: Final = 120.0
"""How long a change waits for another process's lock. A backup of a large file may take a minute."""

Step = Callable[[sqlite3.Connection], None]
"""Brings the tables of one version to the next, within a transaction."""


@contextmanager
def transaction(file: Path, locked_seconds: float = LOCKED_SECONDS) -> Iterator[sqlite3.Connection]:
    """Yield a connection for one change, which is on disk and whole at the end, or where an error ends it not there.

    Nobody else's change comes in between, and `locked_seconds` are waited for theirs to end. The file is closed
    afterwards. Raises InputError where SQLite cannot do it.
    """
    try:
        with closing(sqlite3.connect(file, timeout=locked_seconds, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = FULL")
            with database:  # commits, or rolls back what an error interrupts
                database.execute("BEGIN IMMEDIATE")
                yield database
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite quotes damaged tables, Python reads that as UTF-8
        raise InputError(f"{file}: {error}", hint="is the state folder on a working local disk?") from None


def bring_up_to_date(file: Path, steps: Sequence[Step]) -> None:
    """Make `file`, or bring its tables to the present version, which is the number of `steps`.

    `steps[v]` leads from version v to the next. A new file, and one from before there were versions, has version 0
    (SQLite's user_version), so that the first step has to take tables that are there already. Raises InputError where
    a later version of this program wrote the file, which stays as it is.
    """
    with transaction(file) as database:
        [version] = database.execute("PRAGMA user_version").fetchone()
        if version > len(steps):
            raise InputError(
                f"{file}: has tables of version {version}, and this program knows versions up to {len(steps)}",
                hint="a later version of sparsilo wrote it: run that version, or a later one",
            )
        for step in steps[version:]:
            step(database)
        if version < len(steps):
            database.execute(f"PRAGMA user_version = {len(steps)}")  # a pragma takes no bound value
