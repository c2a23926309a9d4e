"""`python -m support.ended_early CONFIG OPERATION...`: an aggregator that works on the run in its state folder, until
the run is over, or until something ends it before one of its file operations.

The model is opened once; every OPERATION is a fork on its own copy of the folder that CONFIG names. Prints a JSON line
for each. No silo is there.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from aggregator.config import AggregatorConfig
from aggregator.metrics import AggregatorMetrics
from aggregator.runs.submitted import Runs, Status
from aggregator.serve import Work
from aggregator.silos.enrolments import Enrolments

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TAKES_ROOM = {"open", "os.mkdir", "os.link"}
FREES = {"os.rename", "os.remove", "os.rmdir", "sqlite3.connect"}


class Ending:
    """Ends the process, or refuses room, from its n-th file operation within a folder on; as an audit hook."""

    def __init__(self, how: str, at: int, folder: Path | str) -> None:
        self.how, self.at, self.folder, self.seen = how, at, f"{folder}", 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in TAKES_ROOM | FREES or not self._is_within(event, arguments):
            return
        if event == "open" and not (arguments[2] or 0) & WRITES:
            return
        if self.how == "full" and event in FREES:
            return
        self.seen += 1
        if self.how == "killed" and self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "full" and self.seen >= self.at:
            raise OSError(28, "No space left on device", arguments[0])

    def _is_within(self, event: str, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0]
        if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
            return True  # shutil.rmtree names files beside an open folder
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.folder)


def work_on(config: AggregatorConfig) -> Status:
    """Until the run is over."""

    async def until_over() -> Status:
        work = Work(config, AggregatorMetrics(CollectorRegistry()), Enrolments(config.state))
        await work.take_up()
        working = asyncio.create_task(work.go_on())
        runs = Runs(config.state)
        try:
            while not (run := runs.all()[0]).is_over or work._at_work is not None:
                assert not working.done(), working.exception()
                await asyncio.sleep(0.01)
        finally:
            working.cancel()
        return Status(run.status)

    return asyncio.run(until_over())


def forked(config: AggregatorConfig, ending: Ending) -> tuple[str, int]:
    """How a process ended, and how many operations it counted."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        status = "broken"
        try:
            sys.addaudithook(ending)
            status = work_on(config)
        finally:
            ending.how = "over"
            os.write(writing, json.dumps([status, ending.seen]).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    status, seen = json.loads(said) if said else ("killed", ending.at)
    return status, seen


def content(folder: Path) -> dict[str, str]:
    """By path the digest of each file but the reports, which say how long it took."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith("report.")]
    return {f"{file.relative_to(folder)}": sha256(file.read_bytes()).hexdigest() for file in files}


def ended_early(config: AggregatorConfig, how: str, at: int) -> dict[str, Any]:
    """End a process so, then let another one go on."""
    state = config.state.with_name(f"{how}-{at}")
    shutil.copytree(config.state, state)
    own = replace(config, state=state)
    first, seen = forked(own, Ending(how, at, state))
    runs = Runs(state)
    run = runs.all()[0]
    if run.status == Status.FAILED:
        runs.retry(run.run)
    second, _ = forked(own, Ending("", 0, state))
    made = content(state / "runs")
    shutil.rmtree(state)
    return {"how": how, "at": at, "first": first, "said": run.said, "seen": seen, "second": second, "content": made}


def main() -> None:
    config = AggregatorConfig.read(Path(sys.argv[1]))
    for operation in sys.argv[2:]:
        how, _, at = operation.partition(":")
        print(json.dumps(ended_early(config, how, int(at))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
