"""A silo's files of a run, in a folder of the run's own, and when they go (docs/formats.md, section 10)."""

import os
import shutil
from pathlib import Path
from typing import Final

from crypto.secagg.round import Round
from silo_agent.opened_sums.committed_words import WORDS_SUFFIX

RUNS_FOLDER: Final = "runs"


class RunFiles:
    """The files of one run in a silo's state folder: `plan` is its plan's digest, `data` the SHA-256 of its text."""

    def __init__(self, state: Path, plan: bytes, data: bytes) -> None:
        self._state, self._data = state, data
        self.folder = state / RUNS_FOLDER / plan.hex()
        self.work = self.folder / data.hex()
        """Holds what can be computed, or fetched, again: masks, weights and sums, which are gigabytes."""

    def of_other(self, plan: bytes) -> "RunFiles":
        """Return the files that another plan, known by its digest, has in the same state folder about the same text."""
        return RunFiles(self._state, plan, self._data)

    def begin(self) -> None:
        """Make the folder where it is missing; it is the state folder's newest from now on. Raises OSError."""
        self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(self.folder)

    def transcript(self, round_: Round) -> Path:
        """Return where this silo keeps its own transcript of a round, for `silo-agent verify --own`."""
        return self.folder / f"{round_.digest.hex()}.transcript"

    def served_transcript(self, round_: Round) -> Path:
        """Return where the aggregator's transcript of a round lies, of which this silo has none."""
        return self.work / f"{round_.digest.hex()}.served_transcript"

    def opened_sum(self, round_: Round) -> Path:
        """Return where the opened sum of a round lies."""
        return self.work / f"{round_.digest.hex()}{WORDS_SUFFIX}"

    def candidate(self, digest: bytes) -> Path:
        """Return where keep masks from outside lie, which an evaluation runs."""
        return self.work / f"{digest.hex()}.safetensors"


def drop_work(state: Path, *, but: Path | None = None) -> None:
    """Remove what can be computed again, but that in the folder `but`. What cannot be removed stays."""
    for work in (state / RUNS_FOLDER).glob("*/*/"):
        if work != but:
            shutil.rmtree(work, ignore_errors=True)


def prune_runs(state: Path, keep: int) -> list[str]:
    """Remove the folders of all runs but the newest `keep`, transcripts among them; return whose. Raises OSError."""
    pruned = _newest_first(state)[keep:]
    for folder in pruned:
        shutil.rmtree(folder)
    return [folder.name for folder in pruned]


def _newest_first(state: Path) -> list[Path]:
    """Return the folders of runs, the one that was at work last first."""
    return sorted((state / RUNS_FOLDER).glob("*"), key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
