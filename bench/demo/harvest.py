"""Gather real text for the demo from what is already installed; nothing is downloaded.

Two kinds of text come from the same place and must not overlap: the docstrings the demo model is trained on, and the
private text of four silos, whose domains the model has not been trained on. Files are read and parsed, never imported,
and only the standard library and Sparsilo's own dependencies are relied on to be there.

Run ``python -m bench.demo.harvest OUT`` from the repository root to write the silos' files.
"""

import argparse
import ast
import random
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

SEED = 2024
SILO_CHARACTERS = 120_000  # at least 96 sequences of 256 tokens with room to spare: a token is 2 to 4 characters
DOCSTRING_MINIMUM = 200  # shorter docstrings are mostly one line of boilerplate
DOCSTRING_PACKAGES = ("torch", "transformers", "numpy")
LICENCE_DISTRIBUTIONS = (
    "click",
    "cryptography",
    "grpcio",
    "numpy",
    "prometheus-client",
    "protobuf",
    "PyYAML",
    "rich",
    "safetensors",
    "torch",
    "transformers",
)
_SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "site-packages", "dist-packages", "__pycache__", "encodings"})
_LICENCE_NAME = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
_PASSAGE_CHARACTERS = 4_000
_REPEATED_MINIMUM = 80  # a paragraph this long that comes again is a copy; a shorter one is only idiom
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def harvest_docstrings() -> list[str]:
    """Return the long docstrings of torch, transformers, numpy and the standard library, each once, in stable order."""
    return [text for texts in docstrings_by_package().values() for text in texts]


def docstrings_by_package() -> dict[str, list[str]]:
    """The same, by the package that has them first."""
    roots = {**{name: package(name) for name in DOCSTRING_PACKAGES}, "standard_library": _standard_library()}
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for name, root in roots.items():
        found[name] = []
        for path in sorted_files(root, ".py"):
            for node in documented(parsed(text_of(path))):
                text = ast.get_docstring(node)
                if text and len(text) > DOCSTRING_MINIMUM and text not in seen:
                    seen.add(text)
                    found[name].append(text)
    return found


def harvest_silos(out: Path, characters: int = SILO_CHARACTERS) -> list[Path]:
    """Write the private text of four silos whose domains are new to the model, as `write_silos` does."""
    return write_silos(out, {domain: documents() for domain, documents in DOMAINS.items()}, characters)


def write_silos(out: Path, domains: Mapping[str, Iterable[str]], characters: int = SILO_CHARACTERS) -> list[Path]:
    """Write each domain's documents as a silo's text to ``out/<domain>.txt`` and return the paths, in that order.

    Each file holds at most `characters` characters: passages of the domain's documents in an order shuffled with a
    fixed seed, so that every part of a file is a sample of the whole domain, and paragraphs that occur twice are kept
    once, so that no held-out text is a copy of calibration text.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for domain, documents in domains.items():
        passages = [passage for text in _without_repeats(documents) for passage in _passages(text)]
        random.Random(SEED).shuffle(passages)
        path = out / f"{domain}.txt"
        path.write_text("\n".join(passages)[:characters], encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


def _python_code() -> Iterator[str]:
    """Yield the standard library's source, less its docstrings, since the model has been trained on those."""
    for path in sorted_files(_standard_library(), ".py"):
        if path.name != "topics.py":  # the manual's text, another silo's
            yield _without_docstrings(text_of(path))


def _cpp_headers() -> Iterator[str]:
    """Yield torch's own C++ headers, less the thousands of files that its build generates."""
    include = package("torch") / "include"
    for folder in ("ATen", "c10", "torch"):
        for path in sorted_files(include / folder, ".h"):
            text = text_of(path)
            if "@generated" not in text:
                yield text


def _licences() -> Iterator[str]:
    """Yield the licence files that Sparsilo's dependencies were installed with."""
    for name in LICENCE_DISTRIBUTIONS:
        for file in sorted(metadata.files(name) or [], key=str):
            if ".dist-info" in file.parts[0] and _LICENCE_NAME.match(file.name):
                yield text_of(Path(str(file.locate())))


def _python_manual() -> Iterator[str]:
    """Yield the chapters of the Python reference that ``help()`` shows."""
    for node in ast.walk(parsed(text_of(_standard_library() / "pydoc_data" / "topics.py"))):
        if isinstance(node, ast.Dict):
            yield from (str(ast.literal_eval(value)) for value in node.values)


DOMAINS: dict[str, Callable[[], Iterator[str]]] = {
    "cpp_headers": _cpp_headers,
    "licences": _licences,
    "python_code": _python_code,
    "python_manual": _python_manual,
}


def package(name: str) -> Path:
    """Find an installed package's folder without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {name} is not installed")
    return Path(spec.submodule_search_locations[0])


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def sorted_files(root: Path, suffix: str) -> list[Path]:
    """List a tree's files in an order that does not depend on the file system, leaving tests and add-ons out."""
    paths = (path for path in root.rglob(f"*{suffix}") if path.is_file())
    return sorted(path for path in paths if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1]))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def parsed(source: str) -> ast.Module:
    """Parse a source file; one that this Python cannot parse counts as empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def documented(tree: ast.Module) -> Iterator[_Documented]:
    return (node for node in ast.walk(tree) if isinstance(node, _Documented))


def _without_docstrings(source: str) -> str:
    dropped: set[int] = set()
    for node in documented(parsed(source)):
        if ast.get_docstring(node) is not None:
            first = node.body[0]
            dropped.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return "\n".join(line for number, line in enumerate(source.splitlines(), 1) if number not in dropped)


def _without_repeats(documents: Iterable[str]) -> Iterator[str]:
    """Drop each long paragraph that an earlier document (or the same one) already had, whatever its layout."""
    seen: set[str] = set()
    for text in documents:
        kept = []
        for paragraph in re.split(r"\n\s*\n", text):
            key = " ".join(paragraph.lower().split())
            if len(key) < _REPEATED_MINIMUM or key not in seen:
                kept.append(paragraph)
                seen.add(key)
        yield "\n\n".join(kept)


def _passages(text: str) -> Iterator[str]:
    """Cut a document at line ends into passages of about a page."""
    passage: list[str] = []
    length = 0
    for line in text.strip().splitlines(keepends=True):
        passage.append(line)
        length += len(line)
        if length >= _PASSAGE_CHARACTERS:
            yield "".join(passage)
            passage, length = [], 0
    if passage:
        yield "".join(passage)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo silos' private text.")
    parser.add_argument("out", type=Path, help="folder for <domain>.txt")
    parser.add_argument("--characters", type=int, default=SILO_CHARACTERS, help="at most this many in each file")
    arguments = parser.parse_args()
    for path in harvest_silos(arguments.out, arguments.characters):
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
