"""A PostgreSQL server of Debian's, on a Unix socket in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class PostgresServer:
    """Started; `stop` and `start` are a restart."""

    def __init__(self, folder: Path) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs:
            pytest.fail("PostgreSQL is missing: apt-get install postgresql")
        self._programs, self._folder = programs[-1], folder
        # it does not run as root
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        if self._as:
            shutil.chown(folder, "postgres", "postgres")
        self._run("initdb", "--pgdata", "data", "--auth", "trust", "--username", "sparsilo", "--no-sync")
        self.url = f"postgresql://sparsilo@/postgres?host={folder}"
        self.start()

    def _run(self, program: str, *arguments: str) -> int:
        command = [self._programs / program, *arguments]
        return subprocess.run(command, cwd=self._folder, capture_output=True, check=False, **self._as).returncode

    def start(self) -> None:
        command = [self._programs / "postgres", "-D", "data", "-c", "listen_addresses=", "-k", self._folder]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, **self._as)
        end = time.monotonic() + 60
        while self._run("pg_isready", "--host", str(self._folder), "--quiet"):
            assert time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast": clients are cut off
        self._process.wait(60)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(
        prefix="pg"
    ) as folder:  # a socket's path is short, and pytest's folders are root's
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()
