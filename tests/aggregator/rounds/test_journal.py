"""A journal is there again with everything in it, in order, and belongs to one round."""

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rounds.journal import CLOSED, SCHEMA, SPOKE, UPLOADED, Journal
from crypto.errors import InputError

ROUND = bytes(range(32))
EVENTS = st.lists(st.tuples(st.sampled_from([SPOKE, UPLOADED, CLOSED]), st.sampled_from(["", "a", "b-2"]), st.binary()))


@pytest.mark.clause("4.11")
@settings(max_examples=20)
@given(EVENTS, EVENTS)
def test_events_are_there_when_note_returns_and_in_order(
    first: list[tuple[str, str, bytes]], then: list[tuple[str, str, bytes]]
) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "journal.sqlite"
        killed = Journal(file, ROUND)
        assert killed.events() == []
        for event in first:
            killed.note(*event)  # and it is never closed
        resumed = Journal(file, ROUND)
        assert resumed.events() == first
        for event in then:
            resumed.note(*event)
        resumed.close()
        assert Journal(file, ROUND).events() == first + then


@pytest.mark.parametrize("other", [sha256(b"another").digest(), b"", ROUND[:-1]])
def test_a_journal_of_another_round_is_refused_and_kept(other: bytes, tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    Journal(file, ROUND).note(SPOKE, "a", b"words")
    with pytest.raises(InputError, match=r"journal\.sqlite: is the journal of another round"):
        Journal(file, other)
    assert Journal(file, ROUND).events() == [(SPOKE, "a", b"words")]


def schema(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        [(version,)] = database.execute("PRAGMA user_version")
    return int(version)


def test_a_file_from_before_schemas_had_numbers_is_read_and_numbered(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS events (kind TEXT, silo TEXT, data BLOB) STRICT")
        database.execute("INSERT INTO events VALUES (?, ?, ?)", ("round", "", ROUND))
        database.execute("INSERT INTO events VALUES (?, ?, ?)", ("spoke", "a", b"words"))
    with pytest.raises(InputError, match="another round"):
        Journal(file, bytes(32))
    assert schema(file) == 0, "it is none of this round's business"
    Journal(file, ROUND).note(UPLOADED, "a", b"root")
    assert schema(file) == SCHEMA
    assert Journal(file, ROUND).events() == [(SPOKE, "a", b"words"), (UPLOADED, "a", b"root")]


def test_a_file_of_a_later_schema_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE events (kind TEXT, silo TEXT, what TEXT, data BLOB) STRICT")
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = file.read_bytes()
    with pytest.raises(InputError) as refused:
        Journal(file, ROUND)
    assert f"{refused.value}" == (
        f"{file}: has tables of version {SCHEMA + 1}, and this program knows version {SCHEMA} "
        "(a later version of sparsilo wrote it: run that version, or a later one)"
    )
    assert file.read_bytes() == before
