"""The table of all types that were tried, at the end of the run."""

import json
from collections import Counter
from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TYPES

from model_types.one_type import Row
from model_types.page import PAGE, page


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what became of each type, and write the page where that is asked for and nothing is wrong."""
    rows: dict[str, Row] = {}
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        if report.when == "call" and "::test_a_type[" in report.nodeid:
            found = dict(report.user_properties).get("row")
            name = report.nodeid.partition("[")[2].removesuffix("]")
            rows[name] = Row(**json.loads(found)) if found else Row(name, "traceback")
    for row in (rows[name] for name in TYPES if name in rows):
        terminalreporter.write_line(f"{row.model_type:26} {row.verdict:14} {row.reason}")
    if rows:
        counts = Counter(row.verdict for row in rows.values())
        terminalreporter.write_line(", ".join(f"{verdict}: {count}" for verdict, count in sorted(counts.items())))
        if (
            config.getoption("--write-docs")
            and rows.keys() == TYPES.keys()
            and not counts.keys() & {"wrong", "traceback"}
        ):
            PAGE.write_text(page([rows[name] for name in TYPES]))
