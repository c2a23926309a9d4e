"""A journal's file says whose it is and of which version, and one that is another's is left as it was."""

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.rounds.journal import SPOKE, UPLOADED
from aggregator.rounds.sqlite_journal import JOURNAL_FILE, SCHEMA, SqliteJournal
from crypto.errors import InputError

ROUND = bytes(range(32))


@pytest.mark.parametrize("other", [sha256(b"another").digest(), b"", ROUND[:-1]])
def test_a_journal_of_another_round_is_refused_and_kept(other: bytes, tmp_path: Path) -> None:
    SqliteJournal(tmp_path, ROUND).note(SPOKE, "a", b"words")
    with pytest.raises(InputError, match=r"journal\.sqlite: is the journal of another round"):
        SqliteJournal(tmp_path, other)
    assert SqliteJournal(tmp_path, ROUND).events() == [(SPOKE, "a", b"words")]


def schema(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        [(version,)] = database.execute("PRAGMA user_version")
    return int(version)


def test_a_file_from_before_schemas_had_numbers_is_read_and_numbered(tmp_path: Path) -> None:
    file = tmp_path / JOURNAL_FILE
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS events (kind TEXT, silo TEXT, data BLOB) STRICT")
        database.execute("INSERT INTO events VALUES (?, ?, ?)", ("round", "", ROUND))
        database.execute("INSERT INTO events VALUES (?, ?, ?)", ("spoke", "a", b"words"))
    with pytest.raises(InputError, match="another round"):
        SqliteJournal(tmp_path, bytes(32))
    assert schema(file) == 0, "it is none of this round's business"
    SqliteJournal(tmp_path, ROUND).note(UPLOADED, "a", b"root")
    assert schema(file) == SCHEMA
    assert SqliteJournal(tmp_path, ROUND).events() == [(SPOKE, "a", b"words"), (UPLOADED, "a", b"root")]


def test_a_file_of_a_later_schema_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / JOURNAL_FILE
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE events (kind TEXT, silo TEXT, what TEXT, data BLOB) STRICT")
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = file.read_bytes()
    with pytest.raises(InputError) as refused:
        SqliteJournal(tmp_path, ROUND)
    assert f"{refused.value}" == (
        f"{file}: has tables of version {SCHEMA + 1}, and this program knows version {SCHEMA} "
        "(a later version of sparsilo wrote it: run that version, or a later one)"
    )
    assert file.read_bytes() == before
