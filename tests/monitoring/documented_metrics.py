"""The contract of metrics: what docs/operations.md says of them, and what a process really exposes."""

import re
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
TYPES = {"state set": "gauge", "info": "gauge", "gauge": "gauge", "counter": "counter", "histogram": "histogram"}
"""By its word in the document, the type that Prometheus is told."""


@dataclass(frozen=True)
class Metric:
    type: str
    labels: frozenset[str]


def documented(role: str) -> dict[str, Metric]:
    """By name, what one role's endpoint shall have."""
    rows = _table("| metric | type | labels | meaning |")
    found = {cells[0].strip("`"): Metric(TYPES[cells[1]], frozenset(_words(cells[2]))) for cells in rows}
    return {name: metric for name, metric in found.items() if name.startswith(f"sparsilo_{role}_")}


def documented_values() -> dict[str, set[str]]:
    """By label, the values it can have. Of a state set's label they are the phases and how a round ends."""
    rows = _table("| label | values |")
    values = {label: set(said.split(", ")) for labels, said in rows for label in _words(labels)}
    same = {"the same"}
    return {label: found - same | values["phase"] if same <= found else found for label, found in values.items()}


def exposed(text: str) -> dict[str, Metric]:
    """By name, what /metrics has; without the `..._created` gauges that the library adds, and without `le`."""
    found = {}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith("_created"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = frozenset(label for sample in family.samples for label in sample.labels)
            assert all(sample.labels.keys() - {"le"} == labels - {"le"} for sample in family.samples), name
            found[name] = Metric(family.type, labels - {"le"})
    return found


def exposed_values(text: str) -> dict[str, set[str]]:
    """By label, every value that /metrics has, `le` excepted."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le":
                    found.setdefault(label, set()).add(value)
    return found


def _table(head: str) -> list[list[str]]:
    """The cells of the only table with that head."""
    (lines,) = re.findall(rf"^{re.escape(head)}\n\|[-|]+\n((?:\|.*\n)+)", OPERATIONS.read_text(), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]


def _words(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall("`([^`]+)`", cell)
