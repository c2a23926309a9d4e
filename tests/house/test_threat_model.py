"""Every row of what the threat model says holds names the tests that show it, and they are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r"`(tests/[\w/.]+)`")


def rows() -> list[list[str]]:
    """The cells of the table of what holds, row by row."""
    text = (ROOT / "docs/threat-model.md").read_text()
    table = text.split("## What holds\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_every_row_names_the_tests_that_show_it() -> None:
    assert len(rows()) > 10
    for what, *against, shown in rows():
        if any(cell.startswith("yes") for cell in against):
            files = SHOWN.findall(shown)
            assert files, what
            for file in files:
                assert (ROOT / file).exists(), f"{what}: {file}"
        else:
            assert shown == "-", what
