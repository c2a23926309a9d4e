"""`make house` counts what its head says, on small packages whose figures are counted by hand."""

import subprocess
from pathlib import Path

import pytest

from bench.house import at, circles, edits, floors, measured, repeated_share, room, table, used_modules, used_rooms

FILES = {
    "crypto/__init__.py": "",
    "crypto/plan.py": "import os\n\nclass Plan:\n    def digest(self):\n        return 1\n",
    "silo_agent/model/weights.py": "from crypto import plan\nfrom crypto.plan import Plan\n",
    "silo_agent/model/text.py": "def read():\n    import silo_agent.model.weights\n",
    "silo_agent/pruning/prune.py": "from silo_agent.model.text import read\n",
    "aggregator/cli.py": "from silo_agent.pruning import prune\n",
}
TWICE = "\n".join(f"value_{i} = {i}" for i in range(6))


def test_imports_lead_to_the_module_that_holds_the_name() -> None:
    graph = used_modules(FILES)
    assert graph["silo_agent.model.weights"] == {"crypto.plan"}
    assert graph["silo_agent.model.text"] == {"silo_agent.model.weights"}
    assert graph["crypto.plan"] == set()
    assert used_rooms(graph)["aggregator.cli"] == {"silo_agent.pruning"}
    assert [room(name) for name in ("crypto.plan", "silo_agent.model.text")] == ["crypto.plan", "silo_agent.model"]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": set()}, 1),
        ({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}, 3),
        ({"a": {"b"}, "b": {"a", "c"}, "c": set()}, 2),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}}, 1),
    ],
)
def test_floors_are_the_longest_chain_and_a_circle_is_one(graph: dict[str, set[str]], expected: int) -> None:
    assert floors(graph) == expected


def test_circles_group_what_reaches_each_other() -> None:
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": set()}
    assert sorted(map(sorted, circles(graph))) == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (TWICE, TWICE, 1.0),
        (f"if x:\n{TWICE.replace('value', '    value')}\n\n# a comment", f"import os\n{TWICE}", 12 / 13),
        (TWICE.replace("= 5", "= 6"), TWICE, 0.0),
        (f"{TWICE}\nx = 1", f"y = 2\n{TWICE}", 12 / 14),
    ],
)
def test_repeated_lines_are_those_of_equal_runs_of_six(one: str, other: str, share: float) -> None:
    assert repeated_share({"a.py": one, "b.py": other}) == pytest.approx(share)


def test_a_diff_counts_by_what_was_there_before() -> None:
    diff = (
        "diff --git a/crypto/names.py b/crypto/names.py\n--- a/crypto/names.py\n+++ b/crypto/names.py\n"
        "@@ -1,2 +1,3 @@\n A\n-B\n+B2\n+C\n"
        "diff --git a/new.py b/new.py\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n"
    )
    assert edits(diff) == "1 files, 3 lines"


def test_the_table_names_what_is_longest_and_aligns() -> None:
    figures = measured({**FILES, "docs/adding/pruner.diff": "--- a/x\n+++ b/x\n+1\n"})
    assert figures["longest function"] == "2: read in silo_agent.model.text"
    assert figures["longest class"] == "3: Plan in crypto.plan"
    assert figures["most modules in a folder"] == "2: silo_agent/model"
    assert figures["floors of rooms"] == "4"
    assert figures["to add pruner"] == "1 files, 1 lines"
    lines = list(table({"before": {"modules": "1"}, "after": figures}))
    assert lines[1].split()[:2] == ["modules", "1"]
    assert "-" in lines[-1].split()


@pytest.mark.parts
def test_a_revision_is_read_as_git_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("crypto/a.py", "x = 1\n"), ("tests/b.py", ""), ("docs/adding/pruner.diff", "d")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)  # noqa: S607 (git is found as in a shell)
    (tmp_path / "crypto/a.py").write_text("x = 2\n")
    assert at("HEAD") == {"crypto/a.py": "x = 1\n", "docs/adding/pruner.diff": "d"}
