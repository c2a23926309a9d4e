"""`make soak`: 200 runs one after another. Memory, descriptors and files stay what they were; only records grow."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from kills.federation import KilledFederation

RUNS: Final = int(os.environ.get("RUNS", "200"))
SETTLED: Final = RUNS // 4
"""After so many runs everything that is made once has been made."""
MOST_MEMORY: Final = 24 << 20
"""Bytes by which a process may have grown since: what allocators keep goes up and down by as much."""
MOST_DESCRIPTORS: Final = 8
MOST_RECORDS: Final = 64 << 10
"""Bytes a run of ledger, decisions, audit log, journal of runs and log."""
RECORDS: Final = (".sqlite", ".jsonl")


@dataclass(frozen=True)
class Held:
    """What a process holds at a moment."""

    memory: int
    descriptors: int
    files: int
    """Bytes of the files in its state folder but records."""
    records: int

    @classmethod
    def by(cls, process: int, state: Path) -> "Held":
        status = Path(f"/proc/{process}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert resident
        files = {file: file.stat().st_size for file in state.rglob("*") if file.is_file()}
        records = sum(size for file, size in files.items() if file.suffix in RECORDS)
        descriptors = len([*Path(f"/proc/{process}/fd").iterdir()])
        return cls(1024 * int(resident[1]), descriptors, sum(files.values()) - records, records)


@pytest.mark.minutes
def test_many_runs(federation: KilledFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def held() -> dict[str, Held]:
        states = {name: tmp_path / ("state" if name == "aggregator" else f"{name}/state") for name in running}
        return {name: Held.by(process, states[name]) for name, process in running.items()}

    running, before = federation.programs.running, dict[str, Held]()
    for number in range(1, RUNS + 1):
        ended = federation.killed(None)
        assert not ended.problems, ended
        if number == SETTLED:
            before = held()
    after = held()
    with capsys.disabled():
        for name, now in after.items():
            print(f"\n{name}: {before[name]} after {SETTLED} runs, {now} after {RUNS}", end="")  # noqa: T201
    for name, now in after.items():
        then = before[name]
        assert now.memory - then.memory < MOST_MEMORY, name
        assert abs(now.descriptors - then.descriptors) <= MOST_DESCRIPTORS, name
        assert now.files <= 1.1 * then.files, name
        assert now.records - then.records < MOST_RECORDS * (RUNS - SETTLED), name
