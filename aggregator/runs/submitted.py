"""The runs that were submitted, and how far each is: one SQLite file, which `serve` and the commands beside it share.

It is opened for each change. A run's plan and results lie in a folder of its own.
"""

import json
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from aggregator.runs.run_folder import RunFolder
from crypto.errors import InputError
from crypto.plan import Plan
from crypto.releases.planned_rounds import release_of
from silo_agent.host.sqlite_file import bring_up_to_date, transaction

RUNS_FILE: Final = "runs.sqlite"

_TABLE: Final = """CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, plan_digest TEXT NOT NULL, release TEXT NOT NULL, rounds INTEGER NOT NULL,
    done INTEGER NOT NULL, silos INTEGER NOT NULL, survivors INTEGER, status TEXT NOT NULL, phase TEXT NOT NULL,
    said TEXT NOT NULL, submitted TEXT NOT NULL, ended TEXT
) STRICT"""


def _first_table(database: sqlite3.Connection) -> None:
    """Make the table of version 1, unless a file from before there were versions has it."""
    database.execute(_TABLE)


def _wish_to_cancel(database: sqlite3.Connection) -> None:
    """Make the table of version 2, which says who asked that a run be cancelled."""
    database.execute("ALTER TABLE runs ADD COLUMN cancelled_by TEXT NOT NULL DEFAULT ''")


def _awaited_silos(database: sqlite3.Connection) -> None:
    """Make the table of version 3, which says whom the present phase waits for."""
    database.execute("ALTER TABLE runs ADD COLUMN waiting TEXT NOT NULL DEFAULT ''")


_STEPS: Final = (_first_table, _wish_to_cancel, _awaited_silos)


class Status(StrEnum):
    """What has become of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Run:
    """A submitted run, and how far it is. The fields are named as the columns, and as a JSON document has them."""

    run: str
    """The run's name, 16 hex digits: the beginning of its plan's digest."""
    plan_digest: str
    """The plan's digest, hex."""
    release: str
    """The release kind of the pruning's last round."""
    rounds: int
    """How many rounds the plan has."""
    done: int
    """How many rounds are over."""
    silos: int
    """How many silos the plan's roster has."""
    survivors: int | None
    """The fewest survivors that a round had so far."""
    status: str
    """A Status."""
    phase: str
    """What the run is at; empty before and after."""
    said: str
    """Why the run failed, who cancelled it, or why one that is done has no evaluation."""
    submitted: str
    """When it was submitted, ISO 8601."""
    ended: str | None
    """When it ended, ISO 8601."""
    cancelled_by: str = ""
    """Who asked that it be cancelled; empty where nobody did."""
    waiting: str = ""
    """Whom the present phase waits for and until when, JSON; empty where there is none."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status not in (Status.WAITING, Status.RUNNING)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON document has them."""
        return {**asdict(self), "waiting": json.loads(self.waiting) if self.waiting else None}


class Runs:
    """The runs in an aggregator's state folder."""

    def __init__(self, state: Path) -> None:
        """Make the file, or bring it up to date. Raises InputError where it cannot be opened or is too new."""
        self.state, self._file, self._folder = state, state / RUNS_FILE, state / "runs"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        bring_up_to_date(self._file, _STEPS)

    def folder(self, run: str) -> RunFolder:
        """Return the folder of a run's plan and results."""
        return RunFolder(self._folder / run)

    def submit(self, plan: Plan, asked: bytes, now: datetime) -> str:
        """Queue a run; return its name. `asked` is the plan.yaml that its plan was made from."""
        run = plan.digest.hex()[:16]
        kind = release_of(plan)
        row = Run(
            *(run, plan.digest.hex(), kind, len(plan.message.rounds), 0, len(plan.silos), None),
            *(Status.WAITING, "", "", now.isoformat(timespec="seconds"), None),
        )
        with transaction(self._file) as database:  # nobody prunes a folder that is not in the table yet
            self.folder(run).submit(plan, asked)
            database.execute(
                "INSERT INTO runs (run, plan_digest, release, rounds, done, silos, survivors, status, phase, said, "
                "submitted, ended) VALUES (:run, :plan_digest, :release, :rounds, :done, :silos, :survivors, :status, "
                ":phase, :said, :submitted, :ended)",
                asdict(row),
            )
        return run

    def all(self) -> list[Run]:
        """Return every run, the one that was submitted first first."""
        query = (
            "SELECT run, plan_digest, release, rounds, done, silos, survivors, status, phase, said, submitted, ended, "
            "cancelled_by, waiting FROM runs ORDER BY submitted, rowid"
        )
        with transaction(self._file) as database:
            return [Run(*row) for row in database.execute(query)]

    def find(self, run: str) -> Run:
        """Return the run whose name begins with `run`. Raises InputError where there is none, or are several."""
        matching = [candidate for candidate in self.all() if candidate.run.startswith(run)]
        if len(matching) != 1:
            problem = "several runs begin so" if matching else "no such run"
            raise InputError(f"{run}: {problem}", hint="aggregator rounds list names them")
        return matching[0]

    def next(self) -> Run | None:
        """Return the run to work on: one that a stopped process left running, or else the oldest that waits."""
        open_runs = [run for run in self.all() if not run.is_over]
        return min(open_runs, key=lambda run: run.status != Status.RUNNING, default=None)

    def begin(self, run: str) -> None:
        """Record that a run is being worked on."""
        with transaction(self._file) as database:
            database.execute("UPDATE runs SET status = ? WHERE run = ?", (Status.RUNNING, run))

    def advance(
        self, run: str, phase: str, done: int, survivors: int | None, waiting: Mapping[str, Any] | None = None
    ) -> None:
        """Record what a run is at, how many of its rounds are over, the fewest survivors that one had, and whom the
        present phase waits for. Of a run that is over nothing changes.
        """
        with transaction(self._file) as database:
            change = "UPDATE runs SET phase = ?, done = ?, survivors = ?, waiting = ? WHERE (run, status) = (?, ?)"
            awaited = json.dumps(waiting) if waiting else ""
            database.execute(change, (phase, done, survivors, awaited, run, Status.RUNNING))

    def cancel(self, run: str, by: str, now: datetime) -> None:
        """Cancel a run: one that waits at once, one at work when `serve` next looks. One that is over stays so."""
        with transaction(self._file) as database:
            change = "UPDATE runs SET cancelled_by = ? WHERE (run, status) = (?, ?)"
            database.execute(change, (by, run, Status.RUNNING))
            change = "UPDATE runs SET status = ?, said = ?, ended = ?, cancelled_by = ? WHERE (run, status) = (?, ?)"
            database.execute(change, (Status.CANCELLED, by, _iso(now), by, run, Status.WAITING))

    def retry(self, run: str) -> None:
        """Queue a failed run again, which goes on from the rounds that it has. Raises InputError where it cannot."""
        if not self.folder(run).has_rounds:
            hint = "submit its plan again: aggregator plan submit"
            raise InputError(f"{run}: has no round from which it could go on", hint=hint)
        with transaction(self._file) as database:
            change = (
                "UPDATE runs SET status = ?, said = '', ended = NULL, cancelled_by = '' WHERE run = ? AND status = ?"
            )
            if not database.execute(change, (Status.WAITING, run, Status.FAILED)).rowcount:
                raise InputError(f"{run}: has not failed", hint="aggregator rounds show says what it is at")

    def prune(self, keep: int) -> list[str]:
        """Remove the folders of all runs that are over but the last `keep`; return whose. The table still has them.

        Folders that belong to no run, since somebody was killed while submitting or pruning, go too. Raises OSError.
        """
        with transaction(self._file) as database:
            rows = database.execute("SELECT run, ended FROM runs ORDER BY ended DESC, rowid DESC").fetchall()
            over = [run for run, ended in rows if ended is not None]
            stay = {run for run, _ in rows} - {*over[keep:]}
            for folder in self._folder.iterdir():
                if folder.name not in stay and not folder.name.startswith("."):
                    folder.rename(folder.with_name(f".{folder.name}"))  # at once: a result is whole or not there
        pruned = sorted(self._folder.glob(".*"))
        for folder in pruned:
            shutil.rmtree(folder)
        return [folder.name.removeprefix(".") for folder in pruned]

    def end(self, run: str, status: Status, said: str, now: datetime) -> None:
        """Record that a run is done, failed or was cancelled; and why, or what is missing."""
        with transaction(self._file) as database:
            change = "UPDATE runs SET status = ?, phase = '', waiting = '', said = ?, ended = ? WHERE run = ?"
            database.execute(change, (status, said, _iso(now), run))


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S%z}"
