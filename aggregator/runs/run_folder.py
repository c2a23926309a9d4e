"""The folder of a submitted run: what lies in it in each of the run's states, and the steps between them.

Each step can be repeated, so that whatever a killed process left is taken up by the next one (docs/formats.md, 14.1).
"""

import shutil
from pathlib import Path
from typing import Final

from crypto.plan import Plan
from crypto.plan_rules import decode_plan
from silo_agent.host.whole_file import sync, write_whole

PLAN_FILE: Final = "plan"
PLAN_YAML: Final = "plan.yaml"
RESULT_FOLDER: Final = "result"
OUT_FOLDER: Final = "out"
"""Holds the result while it is made."""
PRUNED_FOLDER: Final = "pruned"
"""Holds what the opened sums made of each tensor."""
EVALUATION_FOLDER: Final = "evaluation"
"""Holds the round over keep masks from outside."""


class RunFolder:
    """One run's folder. Its methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def submit(self, plan: Plan, asked: bytes) -> None:
        """Make the folder of a run whose plan was made from the plan.yaml `asked`."""
        self.path.mkdir(mode=0o700)
        write_whole(self.path / PLAN_FILE, plan.encoded)
        write_whole(self.path / PLAN_YAML, asked)

    def plan(self) -> Plan:
        """Return the plan. Raises also what `decode_plan` raises."""
        return decode_plan((self.path / PLAN_FILE).read_bytes())

    def round(self, index: int) -> Path:
        """Return where a round's files lie."""
        return self.path / f"round-{index}"

    @property
    def has_rounds(self) -> bool:
        """Whether there is a round that a result can be made from, or that can go on."""
        return any(self.path.glob("round-*"))

    @property
    def result(self) -> Path:
        """Where the result lies, whole, once there is one."""
        return self.path / RESULT_FOLDER

    def remove_halves(self) -> None:
        """Remove what an earlier process made only half of."""
        for half in (PRUNED_FOLDER, OUT_FOLDER):
            shutil.rmtree(self.path / half, ignore_errors=True)

    def publish(self) -> None:
        """Make what was made the result, once it is on the disk."""
        out = self.path / OUT_FOLDER
        for written in (*out.rglob("*"), out):
            sync(written)
        out.rename(self.result)
        sync(self.path)

    def clear(self, *, keep_rounds: bool) -> None:
        """Remove what a run that is over has no use for: all but plan, result and, where it may go on, rounds."""
        self.remove_halves()
        rounds = [] if keep_rounds else [*sorted(self.path.glob("round-*")), self.path / EVALUATION_FOLDER]
        for folder in rounds:
            shutil.rmtree(folder, ignore_errors=True)
