"""Submitted runs wait in line, and how far each is can be read by every process."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.runs.submitted import RUNS_FILE, Runs, Status
from crypto.errors import InputError
from silo_agent.host.sqlite_file import transaction
from support.plans import plan

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, SECOND = plan(4), plan(5)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Two that wait."""
    runs = Runs(tmp_path)
    runs.submit(FIRST, b"first", NOW)
    runs.submit(SECOND, b"second", NOW + timedelta(minutes=1))
    return runs


def test_a_submitted_run_waits_with_its_files(runs: Runs) -> None:
    name = FIRST.digest.hex()[:16]
    run = runs.find(name)
    assert (run.run, run.plan_digest, run.silos) == (name, FIRST.digest.hex(), 4)
    assert (run.status, run.done, run.survivors, run.phase, run.said, run.ended) == ("waiting", 0, None, "", "", None)
    assert run.submitted == "2026-03-01T12:00:00+00:00"
    assert (runs.folder(name).path / "plan").read_bytes() == FIRST.encoded
    assert (runs.folder(name).path / "plan.yaml").read_bytes() == b"first"


def test_runs_are_worked_on_in_the_order_in_which_they_came_and_a_begun_one_first(runs: Runs) -> None:
    assert [run.silos for run in runs.all()] == [4, 5]
    first, second = (run.run for run in runs.all())
    upcoming = runs.next()
    assert upcoming
    assert upcoming.run == first
    runs.begin(second)
    begun = runs.next()
    assert begun
    assert begun.run == second
    for run in (first, second):
        runs.end(run, Status.DONE, "", NOW)
    assert runs.next() is None


def test_progress_and_end_are_seen_by_others(runs: Runs, tmp_path: Path) -> None:
    first, second = (run.run for run in runs.all())
    runs.begin(first)
    runs.advance(first, "upload", 2, 3, {"awaited": ["silo-002"]})
    others = Runs(tmp_path)
    seen = others.find(first)
    assert (seen.status, seen.phase, seen.done, seen.survivors, seen.is_over) == ("running", "upload", 2, 3, False)
    assert seen.as_dict()["waiting"] == {"awaited": ["silo-002"]}
    runs.end(first, Status.FAILED, "too few", NOW)
    ended = others.find(first)
    assert ended.as_dict()["waiting"] is None
    assert (ended.status, ended.phase, ended.said, ended.is_over) == ("failed", "", "too few", True)
    assert (ended.done, ended.survivors, ended.ended) == (2, 3, "2026-03-01T12:00:00+0000")
    assert others.find(second).status == "waiting"


def test_a_run_is_found_by_the_beginning_of_its_name_where_no_other_begins_so(runs: Runs) -> None:
    first, _ = (run.run for run in runs.all())
    assert runs.find(first[:12]).run == first
    with pytest.raises(InputError, match="several runs begin so"):
        runs.find("")
    with pytest.raises(InputError, match="no such run"):
        runs.find("x")


def test_a_file_from_before_there_were_versions_is_taken_as_it_is(runs: Runs, tmp_path: Path) -> None:
    before = runs.all()
    with transaction(tmp_path / RUNS_FILE) as database:
        database.execute("ALTER TABLE runs DROP COLUMN cancelled_by")
        database.execute("ALTER TABLE runs DROP COLUMN waiting")
        database.execute("PRAGMA user_version = 0")
    assert Runs(tmp_path).all() == before


def test_a_failed_run_is_tried_again_where_it_has_rounds(runs: Runs) -> None:
    first, _ = (run.run for run in runs.all())
    runs.begin(first)
    (runs.folder(first).round(0)).mkdir()
    with pytest.raises(InputError, match="has not failed"):
        runs.retry(first)
    runs.end(first, Status.FAILED, "no room", NOW)
    runs.retry(first)
    again = runs.find(first)
    assert (again.status, again.said, again.ended) == ("waiting", "", None)
    runs.end(first, Status.FAILED, "no room", NOW)
    runs.folder(first).clear(keep_rounds=False)
    with pytest.raises(InputError, match="has no round from which it could go on"):
        runs.retry(first)


def test_what_is_pruned_are_the_folders_of_the_runs_that_ended_first(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    names = [runs.submit(plan(4, run=bytes([at]) * 16), b"", NOW) for at in range(5)]
    for at, name in enumerate(names[:4]):
        runs.end(name, (Status.DONE, Status.FAILED)[at % 2], "", NOW + timedelta(minutes=at))
        (runs.folder(name).path / "result").mkdir()
    (tmp_path / "runs" / "half submitted").mkdir()
    (tmp_path / "runs" / f".{'0' * 16}").mkdir()  # what a killed prune left
    assert runs.prune(2) == sorted(["0" * 16, names[0], names[1], "half submitted"])
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == {*names[2:]}
    assert [run.run for run in runs.all()] == names, "they are still known"
    assert runs.prune(2) == []
    assert runs.prune(0) == sorted(names[2:4])
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == {names[4]}, "it waits"
