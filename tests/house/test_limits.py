"""The table of limits in docs/operations.md says what aggregator/limits does: the same names, numbers and reasons."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = re.compile(r'^(\w+): Final = ([^\n]+)\n"""(.+?)\n?"""$', re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def limits() -> list[tuple[str, str, str]]:
    """Name, value and reason of each limit, as the code has them."""
    found = LIMIT.findall((ROOT / "aggregator/limits.py").read_text())
    return [(name, value, " ".join(why.split())) for name, value, why in found]


def rows() -> list[tuple[str, str, str]]:
    section = (ROOT / "docs/operations.md").read_text().split("\n### Limits\n")[1].split("\n## ")[0]
    return ROW.findall(section)


def test_every_limit_has_its_row() -> None:
    names = re.findall(r"^([A-Z_]+)\b", (ROOT / "aggregator/limits.py").read_text(), re.MULTILINE)
    assert names == [name for name, *_ in limits()]
    assert rows() == limits()
