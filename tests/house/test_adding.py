"""The changes in docs/adding, each applied to a copy of the repository: a round runs with what it adds, and of what was
there before it edits no more than the pages promise.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile, copytree, ignore_patterns

import pytest

ROOT = Path(__file__).parents[2]
CHANGES = ROOT / "docs" / "adding"
COPIED = ("crypto", "silo_agent", "aggregator", "proto", "tests", "bench")
NAMES, PLAN = "crypto/names.py", "proto/sparsilo/v1/plan.proto"
PRUNERS, OPTIONS = "crypto/pruning/pruners.py", "crypto/plan_options.py"

EDITED = {
    "pruner": {NAMES, PRUNERS},
    "release-kind": {NAMES, PLAN},
    "backend": {NAMES},
    "plan-option": {OPTIONS, PLAN},
}
"""By change, the files that were there before."""

NEIGHBOURS = {
    "pruner": ["tests/silo_agent/pruning/test_pruners.py"],
    "release-kind": [],
    "backend": [
        *("tests/crypto/backends/test_backend_spec.py", "tests/aggregator/rounds/test_round_driver.py"),
        "tests/scenarios/test_cohorts.py",
    ],
    "plan-option": ["tests/crypto/test_plan_options.py"],
}
"""By change, tests of everything of a kind, which take up by its name what was added."""

ADDED = {
    "pruner": "tempered_wanda",
    "release-kind": "distinct_tokens",
    "backend": "insecure_fixed_mask",
    "plan-option": "purpose",
}
"""By change, the name of what is added; tests of it have the name in theirs."""


@dataclass(frozen=True)
class Edit:
    """What a change does to one file."""

    path: str
    is_new: bool
    hunks: tuple[str, ...]

    def lines(self, *marks: str) -> list[str]:
        """The lines of all hunks that are marked so."""
        return [line for hunk in self.hunks for line in hunk.splitlines(keepends=True) if line[:1] in marks]

    def apply(self, root: Path) -> None:
        """Edit the file in `root`. Each hunk must fit one place in it, wherever that is."""
        file = root / self.path
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.is_new:
            assert not file.exists(), self.path
            file.write_text("".join(line[1:] for line in self.lines("+")))
            return
        text = file.read_text()
        for hunk in self.hunks:
            lines = hunk.splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
            assert text.count(before) == 1, f"{self.path}: where there was\n{before}"
            text = text.replace(before, after)
        file.write_text(text)


def edits(change: str) -> Iterator[Edit]:
    """What docs/adding/CHANGE.diff does, file by file."""
    _, *files = re.split(r"^diff --git .*\n", (CHANGES / f"{change}.diff").read_text(), flags=re.MULTILINE)
    for text in files:
        head, *hunks = re.split(r"^@@ .*\n", text, flags=re.MULTILINE)
        [path] = re.findall(r"^\+\+\+ b/(.*)$", head, flags=re.MULTILINE)
        yield Edit(path, "\n--- /dev/null\n" in head, tuple(hunks))


def changed_copy(change: str, folder: Path) -> Path:
    """A copy of the repository with the change, its stubs generated as `make proto` does."""
    for name in COPIED:
        copytree(ROOT / name, folder / name, ignore=ignore_patterns("__pycache__"))
    copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
    for edit in edits(change):
        edit.apply(folder)
    if PLAN in EDITED[change]:
        run(folder, "grpc_tools.protoc", "-Iproto", "--python_out=proto", "--pyi_out=proto", PLAN)
    return folder


def run(folder: Path, module: str, *arguments: str) -> str:
    """Run a module in a copy, with the copy's packages; its stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{folder / 'proto'}"
    command = [sys.executable, "-m", module, *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_every_change_is_tried_and_has_a_page() -> None:
    assert {file.stem for file in CHANGES.glob("*.diff")} == set(EDITED)
    assert all(f"({change}.diff)" in (CHANGES / f"{change}.md").read_text() for change in EDITED)


@pytest.mark.parametrize("change", EDITED)
def test_no_more_is_edited_than_a_name_a_message_and_a_line_in_a_list(change: str) -> None:
    edited = {edit.path: edit for edit in edits(change) if not edit.is_new}
    assert set(edited) == EDITED[change]
    assert not [line for edit in edited.values() for line in edit.lines("-")]
    for path in EDITED[change] & {NAMES, PRUNERS}:
        assert len(edited[path].lines("+")) == 1
    for path in EDITED[change] & {OPTIONS}:  # declared in one place
        assert len(edited[path].hunks) == len(edited[PLAN].hunks) == len(edited[PLAN].lines("+")) == 1


@pytest.mark.parametrize("change", EDITED)
def test_a_round_runs_with_what_is_added(change: str, tmp_path: Path) -> None:
    own = [edit.path for edit in edits(change) if edit.path.startswith("tests/")]
    assert any("\n+def test_a_round" in edit.hunks[0] for edit in edits(change) if edit.path in own)
    folder = changed_copy(change, tmp_path)
    modules = [edit.path for edit in edits(change) if edit.path.endswith(".py")]
    run(folder, "ruff", "check", *modules)
    run(folder, "ruff", "format", "--check", *modules)
    tests = [*own, *NEIGHBOURS[change], "tests/house/test_joints.py", "tests/house/test_rooms.py"]
    run(folder, "pytest", "-p", "no:cacheprovider", *tests, "-k", f"{ADDED[change]} or joints or rooms")
