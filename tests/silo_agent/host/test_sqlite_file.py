"""A change is whole or not there; a file of an earlier version is brought up, and one of a later version is refused."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from crypto.errors import InputError
from silo_agent.host.sqlite_file import bring_up_to_date, transaction


def first(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE IF NOT EXISTS names (name TEXT)")


def second(database: sqlite3.Connection) -> None:
    database.execute("ALTER TABLE names ADD COLUMN age INTEGER")


def broken(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE more (name TEXT)")
    database.execute("no SQL")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "names.sqlite"


def version(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def columns(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as database:
        return [column[1] for column in database.execute("PRAGMA table_info(names)")]


def test_a_new_file_gets_the_present_tables(file: Path) -> None:
    bring_up_to_date(file, (first, second))
    assert (version(file), columns(file)) == (2, ["name", "age"])


def test_steps_that_were_taken_are_not_taken_again(file: Path) -> None:
    bring_up_to_date(file, (first,))
    for _ in range(2):
        bring_up_to_date(file, (first, second))
    assert (version(file), columns(file)) == (2, ["name", "age"])


def test_rows_of_an_earlier_version_stay(file: Path) -> None:
    bring_up_to_date(file, (first,))
    with transaction(file) as database:
        database.execute("INSERT INTO names (name) VALUES ('a')")
    bring_up_to_date(file, (first, second))
    with transaction(file) as database:
        assert database.execute("SELECT name, age FROM names").fetchall() == [("a", None)]


def test_a_step_that_fails_leaves_the_file_as_it_was(file: Path) -> None:
    bring_up_to_date(file, (first,))
    with pytest.raises(InputError, match=r"names\.sqlite: near"):
        bring_up_to_date(file, (first, second, broken))
    assert (version(file), columns(file)) == (1, ["name"])


def test_a_file_of_a_later_version_is_refused_and_left_alone(file: Path) -> None:
    bring_up_to_date(file, (first, second))
    content = file.read_bytes()
    with pytest.raises(InputError) as refused:
        bring_up_to_date(file, (first,))
    assert str(refused.value) == (
        f"{file}: has tables of version 2, and this program knows versions up to 1 "
        "(a later version of sparsilo wrote it: run that version, or a later one)"
    )
    assert file.read_bytes() == content


def test_a_change_that_an_error_interrupts_is_not_there(file: Path) -> None:
    bring_up_to_date(file, (first,))
    with pytest.raises(ValueError, match="interrupted"), transaction(file) as database:
        database.execute("INSERT INTO names (name) VALUES ('a')")
        raise ValueError("interrupted")
    with transaction(file) as database:
        assert database.execute("SELECT name FROM names").fetchall() == []
