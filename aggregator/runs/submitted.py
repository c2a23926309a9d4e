"""The runs that were submitted, and how far each is: one SQLite file, which `serve` and the commands beside it share.
A run's plan and results lie in a folder of its own.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from crypto.errors import InputError
from crypto.plan import Plan
from silo_agent.host.transaction import transaction
from silo_agent.host.whole_file import write_whole

RUNS_FILE: Final = "runs.sqlite"
PLAN_FILE: Final = "plan"
PLAN_YAML: Final = "plan.yaml"
RESULT_FOLDER: Final = "result"

_TABLE: Final = """CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, plan_digest TEXT NOT NULL, release TEXT NOT NULL, rounds INTEGER NOT NULL,
    done INTEGER NOT NULL, silos INTEGER NOT NULL, survivors INTEGER, status TEXT NOT NULL, phase TEXT NOT NULL,
    said TEXT NOT NULL, submitted TEXT NOT NULL, ended TEXT
) STRICT"""


class Status(StrEnum):
    """What has become of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """A row."""

    run: str
    """Its name, 16 hex digits: the beginning of the plan's digest."""
    plan_digest: str
    release: str
    rounds: int
    """Of the plan; an evaluation is one more."""
    done: int
    silos: int
    survivors: int | None
    """Of the round that had fewest, so far."""
    status: str
    phase: str
    said: str
    """Why it failed."""
    submitted: str
    ended: str | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in (Status.DONE, Status.FAILED)

    def as_dict(self) -> dict[str, Any]:
        """As a JSON document has it."""
        return asdict(self)


class Runs:
    """Opened for every change: several processes may use it."""

    def __init__(self, state: Path) -> None:
        self._file, self._folder = state / RUNS_FILE, state / "runs"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with transaction(self._file) as database:
            database.execute(_TABLE)

    def folder(self, run: str) -> Path:
        """Of a run."""
        return self._folder / run

    def submit(self, plan: Plan, asked: bytes, now: datetime) -> str:
        """Queue a run; its name. `asked` is the plan.yaml that it was made from."""
        run = plan.digest.hex()[:16]
        folder = self.folder(run)
        folder.mkdir(mode=0o700)
        write_whole(folder / PLAN_FILE, plan.encoded)
        write_whole(folder / PLAN_YAML, asked)
        kind = plan.release_kind(len(plan.message.rounds) - 1)
        row = Run(
            *(run, plan.digest.hex(), kind, len(plan.message.rounds), 0, len(plan.silos), None),
            *(Status.WAITING, "", "", now.isoformat(timespec="seconds"), None),
        )
        with transaction(self._file) as database:
            query = "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            database.execute(query, tuple(asdict(row).values()))
        return run

    def all(self) -> list[Run]:
        """Oldest first."""
        with transaction(self._file) as database:
            return [Run(*row) for row in database.execute("SELECT * FROM runs ORDER BY submitted, rowid")]

    def find(self, run: str) -> Run:
        """By its name or the beginning of it. Raises InputError where there is none, or are several."""
        found = [each for each in self.all() if each.run.startswith(run)]
        if len(found) != 1:
            problem = "several runs begin so" if found else "no such run"
            raise InputError(f"{run}: {problem}", hint="aggregator rounds list names them")
        return found[0]

    def next(self) -> Run | None:
        """The one that is, or should be, at work: one that a stopped process left running comes first."""
        waiting = [each for each in self.all() if not each.is_over]
        return min(waiting, key=lambda each: each.status != Status.RUNNING, default=None)

    def note(self, run: str, **changes: object) -> None:
        """Change columns of a run. Their names come from code, never from a file or the network."""
        columns = ", ".join(f"{name} = ?" for name in changes)
        with transaction(self._file) as database:
            database.execute(f"UPDATE runs SET {columns} WHERE run = ?", (*changes.values(), run))  # noqa: S608 - values are bound
