"""A PostgreSQL server that restarts is waited for; one that is gone is a failed disk."""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

from aggregator.rounds.journal import CLOSED, SPOKE
from support.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.parts
ROUND = bytes(32)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as own:
        yield own


def test_a_server_that_restarts_is_waited_for(server: PostgresServer, tmp_path: Path) -> None:
    from aggregator.rounds.postgres_journal import PostgresJournal

    journal = PostgresJournal(server.url, tmp_path, ROUND)
    journal.note(SPOKE, "a", b"before")
    server.stop()
    back = Timer(1.5, server.start)
    back.start()
    began = time.monotonic()
    journal.note(SPOKE, "b", b"after")
    assert time.monotonic() - began > 1
    back.join()
    assert journal.events() == [(SPOKE, "a", b"before"), (SPOKE, "b", b"after")]
    journal.close()


def test_an_event_whose_receipt_was_lost_is_noted_once(server: PostgresServer, tmp_path: Path) -> None:
    from aggregator.rounds.postgres_journal import PostgresJournal

    first, second = (PostgresJournal(server.url, tmp_path, ROUND) for _ in range(2))
    first.note(CLOSED, "", b"")
    second.note(CLOSED, "", b"")  # the same number: as if the first answer had not come
    assert first.events() == [(CLOSED, "", b"")]


def test_a_server_that_is_gone_is_a_failed_disk(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aggregator.rounds import postgres_journal

    journal = postgres_journal.PostgresJournal(server.url, tmp_path, ROUND)
    server.stop()
    monkeypatch.setattr(postgres_journal, "AWAY_SECONDS", 0.1)
    with pytest.raises(OSError, match=r"^journal: "):
        journal.note(SPOKE, "a", b"words")
    with pytest.raises(OSError, match=r"^journal: connection .*No such file or directory"):
        postgres_journal.PostgresJournal(server.url, tmp_path, ROUND)
    server.start()
