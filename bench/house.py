"""Measure the house: how many modules a folder has, how they use each other, how long things are, what stands twice.

Run ``python -m bench.house [--at REVISION ...]`` (or ``make house BASE=REVISION``) from the repository root: a column
for each git revision, and one for the working tree. Everything is read from the source of the three packages, nothing
is run.

- *Room*: a folder of a package with all that is in it, or a module that lies in no folder.
- *Floors*: how many modules (or rooms) the longest chain has in which each imports the next. Imports within functions
  and for type checkers count. Those that import each other in a circle are one floor.
- *Arrows*: pairs of rooms of which one imports from the other.
- *Lines* of a function or class: from `def` or `class` to the last one.
- *Repeated lines*: lines that belong to a run of at least six that stands elsewhere too, of all lines. Lines are
  compared without indentation; empty lines, comments and imports are left out.
- *To add ...*: docs/adding/NAME.diff adds one thing of a kind. Counted are the files that it changes and that were
  there before, and the lines added and removed in them.
"""

import argparse
import ast
import io
import re
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGES = ("crypto", "silo_agent", "aggregator")
ADDING = "docs/adding"
RUN = 6

Files = Mapping[str, str]
"""Text by path within the repository."""

Graph = Mapping[str, set[str]]
"""What each module, or room, imports from."""


def working_tree(root: Path = Path()) -> Files:
    """Everything that is measured, as it lies in a checkout."""
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    return {file.relative_to(root).as_posix(): file.read_text() for file in [*files, *(root / ADDING).glob("*.diff")]}


def at(revision: str) -> Files:
    """Everything that is measured, as git has it. Raises CalledProcessError where there is no such revision."""
    command = ["git", "archive", revision]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            name = Path(member.name)
            is_module = name.suffix == ".py" and name.parts[0] in PACKAGES
            if (is_module or name.match(f"{ADDING}/*.diff")) and (content := tar.extractfile(member)):
                files[member.name] = content.read().decode()
    return files


def module(file: str) -> str:
    """Dotted name of a file of Python code."""
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(source: str) -> Iterator[str]:
    """Dotted names of everything that `source` imports, wherever in it; a relative import begins with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Name) and node.id == "__import__":
            yield node.id


def used_modules(files: Files) -> dict[str, set[str]]:
    """Of each module, which other modules of the packages it imports, or imports something of."""
    modules = {module(file) for file in files if file.endswith(".py")}
    graph: dict[str, set[str]] = {name: set() for name in sorted(modules)}
    for file, source in files.items():
        if file.endswith(".py"):
            for name in imports(source):
                origin = name
                while origin and origin not in modules:
                    origin = origin.rpartition(".")[0]
                graph[module(file)] |= {origin} - {"", module(file)}
    return graph


def room(name: str) -> str:
    """The room of a module: the folder right below its package, or itself where it is in none."""
    return ".".join(name.split(".")[:2])


def used_rooms(graph: Graph) -> dict[str, set[str]]:
    """Of each room, which others its modules import from."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, used in graph.items():
        rooms[room(name)] |= {room(other) for other in used} - {room(name)}
    return rooms


def circles(graph: Graph) -> list[set[str]]:
    """Everything, grouped by what can be reached from each other; most groups have one member."""
    reachable: dict[str, set[str]] = {}
    for start in graph:
        seen, ahead = {start}, [start]
        while ahead:
            more = graph[ahead.pop()] - seen
            seen |= more
            ahead += more
        reachable[start] = seen
    return [
        group
        for name in graph
        if name == min(group := {other for other in reachable[name] if name in reachable[other]})
    ]


def floors(graph: Graph) -> int:
    """How many the longest chain has, a circle counting as one."""
    circle = {name: min(group) for group in circles(graph) for name in group}
    below: dict[str, set[str]] = defaultdict(set)
    for name, used in graph.items():
        below[circle[name]] |= {circle[other] for other in used} - {circle[name]}
    height: dict[str, int] = {}
    for name in TopologicalSorter(below).static_order():
        height[name] = 1 + max((height[other] for other in below[name]), default=0)
    return max(height.values())


def longest(files: Files, *kinds: type[ast.AST]) -> str:
    """Lines, name and module of the longest definition of these kinds."""
    lengths = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{node.name} in {module(file)}")
        for file, source in files.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and isinstance(node, kinds)
    ]
    return "{}: {}".format(*max(lengths))


def repeated_share(files: Files) -> float:
    """Share of lines that stand elsewhere too, as this file's head defines it."""
    kept = {file: list(compared_lines(source)) for file, source in files.items()}
    runs = {
        (file, start): tuple(lines[start : start + RUN])
        for file, lines in kept.items()
        for start in range(len(lines) - RUN + 1)
    }
    times = Counter(runs.values())
    repeated = {(file, start + i) for (file, start), run in runs.items() if times[run] > 1 for i in range(RUN)}
    return len(repeated) / sum(map(len, kept.values()))


def compared_lines(source: str) -> Iterator[str]:
    """Lines without indentation, without those that are empty, a comment or part of an import."""
    imported = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for number, line in enumerate(source.splitlines(), 1):
        if (text := line.strip()) and not text.startswith("#") and number not in imported:
            yield text


def edits(diff: str) -> str:
    """How many files that were there before a unified diff changes, and by how many lines."""
    changed, lines = 0, 0
    for part in re.split(r"^(?=--- )", diff, flags=re.MULTILINE)[1:]:
        before, *rest = part.splitlines()
        if before.split()[1] != "/dev/null":
            changed += 1
            lines += sum(line[:1] in ("+", "-") for line in rest[1:])
    return f"{changed} files, {lines} lines"


def measured(files: Files) -> dict[str, str]:
    """Every figure of the table, by its name."""
    sources = {file: source for file, source in files.items() if file.endswith(".py")}
    graph = used_modules(sources)
    rooms = used_rooms(graph)
    modules = {file: source.count("\n") for file, source in sources.items() if not file.endswith("__init__.py")}
    folders = Counter(Path(file).parent.as_posix() for file in modules)
    folder, most = max(folders.items(), key=lambda item: item[1])
    longest_module = max(modules, key=lambda file: modules[file])
    lengths = sorted(modules.values())
    figures = {
        "modules": f"{len(modules)} in {len(folders)} folders",
        "most modules in a folder": f"{most}: {folder}",
        "floors of modules": str(floors(graph)),
        "floors of rooms": str(floors(rooms)),
        "arrows between rooms": f"{sum(map(len, rooms.values()))} between {len(rooms)} rooms",
        "longest function": longest(sources, ast.FunctionDef, ast.AsyncFunctionDef),
        "longest class": longest(sources, ast.ClassDef),
        "longest module": f"{modules[longest_module]}: {module(longest_module)}",
        "median module": f"{lengths[len(lengths) // 2]} lines",
        "repeated lines": f"{repeated_share(sources):.1%}",
    }
    for file, diff in sorted(files.items()):
        if file.endswith(".diff"):
            figures[f"to add {Path(file).stem.replace('_', ' ').replace('-', ' ')}"] = edits(diff)
    return figures


def table(columns: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Lines of an aligned table: a row a figure, a column for each named set of figures."""
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    rows = [["", *columns], *([name, *(figures.get(name, "-") for figures in columns.values())] for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def main(revisions: Iterable[str]) -> None:
    """Print the table."""
    columns = {revision: measured(at(revision)) for revision in revisions}
    print("\n".join(table({**columns, "working tree": measured(working_tree())})))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure modules, imports, lengths and repetition.")
    parser.add_argument("--at", action="append", default=[], metavar="REVISION", help="also of a git revision")
    main(parser.parse_args().at)
