"""The documents: lines that fit, links and paths that lead somewhere, and docs/architecture.md's tree, file by file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".github", "bench", "deploy", "docs", "proto", "tests")
FILES = [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md"))]
DOCUMENTS = sorted(file.relative_to(ROOT).as_posix() for file in FILES)
ROOMS = ("crypto", "silo_agent", "aggregator")

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:aggregator|bench|crypto|deploy|docs|proto|silo_agent|tests)/[\w./-]*)`")
TREE_LINE = re.compile(r"( *)([\w./ -]+?)(?: +# .*)?")


def prose(text: str) -> list[tuple[int, str]]:
    """Numbered lines outside code blocks, which are fenced, or indented by four and not part of a list."""
    lines, fenced, listed = [], False, False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            listed = bool(re.match(r" *([-*]|\d+\.) ", line)) or (listed and (not line or line.startswith(" ")))
            if listed or not line.startswith("    "):
                lines.append((number, line))
    return lines


def too_long(text: str) -> list[int]:
    """Numbers of the lines over 120 characters that could be wrapped: a table's row and a lone link cannot."""
    return [
        number
        for number, line in prose(text)
        if len(line) > 120
        and not line.startswith("|")
        and not re.fullmatch(r" *(- )?" + LINK.pattern + r"[.,;]?", line)
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the forge and the site make them."""
    headings = (re.sub(r"[`*]", "", line.lstrip("# ")) for _, line in prose(text) if line.startswith("#"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def lost_links(document: str, text: str) -> list[str]:
    """Relative links of a document that lead to no file of the repository, or to no heading of it."""
    lost = []
    for link in LINK.findall("\n".join(line for _, line in prose(text))):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / document).parent / file if file else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            lost.append(link)
    return lost


def lost_paths(text: str) -> list[str]:
    """Paths in code spans that name no file, module or folder; NAME and NNNN stand for what the reader chooses."""
    paths = [path for path in PATH.findall(text) if not re.search("NAME|NNNN", path)]
    return [path for path in paths if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()]


def tree(text: str) -> set[str]:
    """The modules that the tree lists: a folder ends with a slash and holds what is indented further; `#` remarks."""
    folders: list[tuple[int, str]] = []
    modules = set()
    for line in text.splitlines():
        found = TREE_LINE.fullmatch(line)
        assert found, line
        indent, names = len(found[1]), found[2].split()
        while folders and folders[-1][0] >= indent:
            folders.pop()
        where = folders[-1][1] if folders else ""
        for name in names:
            if name.endswith("/"):
                folders.append((indent, where + name))
            else:
                modules.add(f"{where}{name}.py")
    return modules


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_fit_and_links_and_paths_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    assert too_long(text) == []
    assert lost_links(document, text) == []
    assert lost_paths(text) == []


def test_the_tree_of_the_architecture_lists_every_module_and_no_other() -> None:
    [block] = re.findall(
        r"\n## The tree\n.*?```text\n(.*?)\n```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL
    )
    modules = {file.relative_to(ROOT).as_posix() for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    assert tree(block) == {name for name in modules if not name.endswith("/__init__.py")}


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert len(pages) > 40
    for page in pages:
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]*)|<link[^>]* href=\"([^\"]*)", page)
        assert not [address for pair in loaded for address in pair if re.match(r"(https?:)?//", address)]


@pytest.mark.parametrize(
    "text", ["word " * 25, "- " + "word " * 25, "word\n\n" + "[a](b.md) " * 13, "- a\n\n    " + "word " * 25]
)
def test_a_line_that_is_too_long_is_found(text: str) -> None:
    assert too_long(text)


@pytest.mark.parametrize(
    "text", ["| " + "word " * 25, "    " + "code " * 25, "```\n" + "code " * 25 + "\n```", f"[a]({'b' * 120}.md)"]
)
def test_a_line_that_cannot_be_wrapped_is_left_alone(text: str) -> None:
    assert not too_long(text)


def test_what_leads_nowhere_is_found() -> None:
    text = "[a](no.md) [b](README.md#no) [c](README.md#install-it) `crypto/no` `tests/` `crypto/NAME`"
    assert lost_links("x.md", text) == ["no.md", "README.md#no"]
    assert lost_paths(text) == ["crypto/no"]


def test_the_tree_is_read() -> None:
    assert tree("a/  # a room\n  b  c  # files\n  d/\n    e\nf/\n  g") == {"a/b.py", "a/c.py", "a/d/e.py", "f/g.py"}
