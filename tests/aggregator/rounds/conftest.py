"""Both journals: a file, and a server where there is one."""

from collections.abc import Iterator
from functools import partial

import pytest

from aggregator.rounds.journal import OpenJournal
from aggregator.rounds.sqlite_journal import SqliteJournal
from support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.parts)])
def open_journal(request: pytest.FixtureRequest) -> OpenJournal:
    """Opens journals of each kind."""
    if request.param == "sqlite":
        return SqliteJournal
    from aggregator.rounds.postgres_journal import PostgresJournal

    return partial(PostgresJournal, request.getfixturevalue("postgres").url)
