"""docs/protocol.md against the tests: every clause with a MUST is shown by a test that names it, and nobody names a
clause that is not there.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()

CLAUSE = re.compile(r"^- \*\*([0-9.]+)\*\* (.*?)(?=^- \*\*|^#|\Z)", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^#+ ([0-9.]*[0-9])", re.MULTILINE)
CITED = re.compile(
    r"\(([1-9][0-9]?(?:\.[0-9]{1,2}){1,2})(?:, [0-9.]+)*\)|protocol\.md, (?:section )?([0-9]{1,2}(?:\.[0-9]{1,2}){0,2})"
)
"""How comments name a clause: (5.5.3), or docs/protocol.md, 6.5.3, or docs/protocol.md, section 6.5."""

clauses = dict(CLAUSE.findall(PROTOCOL))
sections = set(SECTION.findall(PROTOCOL))
obligations = {number for number, text in clauses.items() if "MUST" in text} - {"1.1"}  # which says what MUST means


def marked(source: str) -> Iterator[str]:
    """Arguments of every `pytest.mark.clause(...)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.clause":
            yield from (ast.literal_eval(argument) for argument in node.args)


shown = {number for file in (ROOT / "tests").rglob("*.py") for number in marked(file.read_text())}


def test_every_must_has_a_test() -> None:
    assert len(obligations) > 30
    assert obligations - shown == set()


def test_tests_show_clauses_that_exist() -> None:
    assert shown - clauses.keys() == set()


def test_code_cites_clauses_that_exist() -> None:
    cited = {
        (file.relative_to(ROOT).as_posix(), one or other)
        for package in ("crypto", "silo_agent", "aggregator")
        for file in (ROOT / package).rglob("*.py")
        for one, other in CITED.findall(file.read_text())
    }
    assert len(cited) > 10
    assert {(file, number) for file, number in cited if number not in clauses.keys() | sections} == set()


def test_clause_numbers_are_used_once() -> None:
    numbers = [number for number, _ in CLAUSE.findall(PROTOCOL)]
    assert len(numbers) == len(set(numbers))
