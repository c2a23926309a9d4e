"""Rounds' journals as rows of one table on a PostgreSQL server, for those whose databases are backed up and watched.

Uploads and sums stay in the round's folder: the server only has what silos said.
"""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import psycopg

from aggregator.rounds.journal import Event

# The table's name has the version of its columns: a later version makes another table.
_CREATE: Final = """CREATE TABLE IF NOT EXISTS sparsilo_journal_1 (
    round bytea NOT NULL, number bigint NOT NULL, kind text NOT NULL, silo text NOT NULL, data bytea NOT NULL,
    PRIMARY KEY (round, number)
)"""
_EVENTS: Final = "SELECT kind, silo, data FROM sparsilo_journal_1 WHERE round = %s ORDER BY number"
_NOTE: Final = """INSERT INTO sparsilo_journal_1 (round, number, kind, silo, data) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING"""
_FORGET: Final = "DELETE FROM sparsilo_journal_1 WHERE round = %s"

ANSWER_SECONDS: Final = 10
"""How long the server may take to connect or to answer."""
AWAY_SECONDS: Final = 60.0
"""How long a lost server may stay away."""
RETRY_SECONDS: Final = 0.5


class PostgresJournal:
    """A Journal by the round's digest. A server that restarts is waited for."""

    def __init__(self, url: str, _: Path, round_digest: bytes) -> None:
        """`url` is as libpq takes it. Raises OSError where the server does not answer or refuses."""
        self._url, self._round = url, round_digest
        try:
            self._connection = self._connect()
        except psycopg.Error as error:
            raise _as_os_error(error) from None
        self._execute(_CREATE)
        self._noted = len(self.events())

    def note(self, kind: str, silo: str, data: bytes) -> None:
        """Add an event, as Journal says. Events have numbers: one whose receipt was lost is not noted twice."""
        self._execute(_NOTE, (self._round, self._noted, kind, silo, data))
        self._noted += 1

    def events(self) -> list[Event]:
        """Return what was noted, in order, as Journal says."""
        return [(kind, silo, bytes(data)) for kind, silo, data in self._execute(_EVENTS, (self._round,))]

    def close(self, *, is_over: bool = False) -> None:
        """End the journal, as Journal says."""
        if is_over:
            self._execute(_FORGET, (self._round,))
        self._connection.close()

    def _connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=ANSWER_SECONDS,
            tcp_user_timeout=1000 * ANSWER_SECONDS,
            options=f"-c synchronous_commit=on -c statement_timeout={ANSWER_SECONDS}s",
            application_name="sparsilo",
        )

    def _execute(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        until = monotonic() + AWAY_SECONDS
        while True:
            try:
                if self._connection.closed:
                    self._connection = self._connect()
                cursor = self._connection.execute(query, values)
                return cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                is_lost = isinstance(error, psycopg.OperationalError) and self._connection.closed
                if not is_lost or monotonic() > until:
                    raise _as_os_error(error) from None
            sleep(RETRY_SECONDS)


def _as_os_error(error: psycopg.Error) -> OSError:
    return OSError(f"journal: {' '.join(str(error).split())}")
