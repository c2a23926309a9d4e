"""A backup locks a SQLite file for longer than a phase lasts: rounds wait for it, and nobody is dropped."""

import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from support.deployment import Deployment, until

LOCKED_SECONDS: Final = 70


def locked(stack: ExitStack, file: Path) -> None:
    """Hold a lock on a SQLite file, as nothing else may have it, until the stack is closed."""
    database = stack.enter_context(closing(sqlite3.connect(file, timeout=60, isolation_level=None)))
    database.execute("BEGIN EXCLUSIVE")


@pytest.mark.slow
@pytest.mark.parametrize(("whose", "phase_seconds"), [("state", 20), ("a/state", 2 * LOCKED_SECONDS)])
def test_a_lock_costs_its_time_and_nothing_else(deployment: Deployment, whose: str, phase_seconds: int) -> None:
    """Files of the aggregator are locked for longer than its silos have in a phase, those of a silo for less."""
    server = deployment.serve()
    deployment.join()
    name = deployment.submit(phase_seconds=phase_seconds)
    journal = deployment.folder / "state/runs" / name / "round-0/journal.sqlite"
    until(journal.exists)
    files = list((deployment.folder / whose).rglob("*.sqlite"))
    assert len(files) == (4 if whose == "state" else 1)
    with ExitStack() as stack:
        for file in files:
            locked(stack, file)
        time.sleep(LOCKED_SECONDS)
    waited = deployment.wait(name)
    assert waited.code == 0, waited.err + server.said
    assert waited.data["survivors"] == 3
    assert "dropped in phase" not in server.said
    assert server.end() == 0
