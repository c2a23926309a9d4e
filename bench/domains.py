"""Silos of real text in two settings, for a model that knows much: English prose, and text of other kinds.

Everything is read from packages that are installed with Sparsilo, as bench/demo/harvest.py does, and nothing is
downloaded. The prose is what a language model writes of itself; code, headers, licences and the like it does not.

Every record is as long as a sequence, so that each sequence begins with the begin token: without it Gemma 3 predicts
far worse (perplexity 62 in place of 25 on the same text), and what is measured is how it does without.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from bench.demo.harvest import DOMAINS, documented, package, parsed, sorted_files, text_of, write_silos

CHARACTERS = 320_000
"""Of a silo: at least 96 sequences of 512 tokens, of up to 6 characters, with room to spare."""
MOST_CHARACTERS_A_TOKEN, EARLIER = 32, 8
PROSE_MINIMUM = 200
"""A shorter paragraph is mostly a heading, or a parameter's line."""
LETTERS = 0.75
"""Of prose's characters that are no spaces: code and tables have fewer."""
READMES = (
    *("annotated-types", "anyio", "attrs", "click", "cryptography", "filelock", "fsspec", "httpx2", "huggingface_hub"),
    *("hypothesis", "jsonschema", "mkdocs", "mpmath", "networkx", "numpy", "packaging", "pathspec", "pluggy"),
    *("prometheus_client", "protobuf", "pydantic", "Pygments", "pytest-cov", "PyYAML", "regex", "rich", "safetensors"),
    *("scipy", "sortedcontainers", "sympy", "tokenizers", "torch", "tqdm", "transformers", "typer", "watchdog"),
)


def write_domains(out: Path, setting: str, tokenizer: Any, length: int) -> list[Path]:
    """Write each silo of a setting of `SETTINGS` to ``out/<silo>.jsonl``, and return the paths, in that order.

    The text is as `write_silos` makes it, cut into records of `length` tokens.
    """
    paths = []
    documents_by_silo = {silo: documents() for silo, documents in SETTINGS[setting].items()}
    for text in write_silos(out, documents_by_silo, CHARACTERS):
        paths.append(text.with_suffix(".jsonl"))
        with paths[-1].open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(
                json.dumps({"text": record}) + "\n" for record in records(text.read_text("utf-8"), tokenizer, length)
            )
    return paths


def records(text: str, tokenizer: Any, length: int) -> Iterator[str]:
    """Cut a text into consecutive records that are `length` tokens each, what the tokenizer adds included.

    A record cut off after a token may be other tokens than it was with what follows: then it ends a few tokens earlier.
    Where that does not help, its text is left out, as the rest after the last record is.
    """
    start = 0
    while True:
        window = text[start : start + MOST_CHARACTERS_A_TOKEN * length]
        ends = [end for _, end in tokenizer(window, return_offsets_mapping=True, verbose=False)["offset_mapping"]]
        if len(ends) <= length:
            return
        shorter = (window[:end] for end in reversed(ends[length - EARLIER : length]))
        record = next((piece for piece in shorter if len(tokenizer(piece)["input_ids"]) == length), None)
        start += ends[length - 1] if record is None else len(record)
        if record is not None:
            yield record


def _docstrings(*packages: str) -> Iterator[str]:
    for name in packages:
        for path in sorted_files(package(name), ".py"):
            for node in documented(parsed(text_of(path))):
                yield _prose(ast.get_docstring(node) or "")


def _manual() -> Iterator[str]:
    return map(_prose, DOMAINS["python_manual"]())


def _readmes() -> Iterator[str]:
    for name in READMES:
        yield str(cast(Message, metadata.metadata(name)).get_payload())  # it is one, typed as less


def _prose(text: str) -> str:
    """Keep a text's long paragraphs of words, each as one line: neither code, nor tables, nor lists of parameters."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        letters = sum(map(str.isalpha, line)) / max(1, len(line.replace(" ", "")))
        if len(line) >= PROSE_MINIMUM and letters >= LETTERS and not re.search(">>>|---", line):
            kept.append(line)
    return "\n\n".join(kept)


SETTINGS: Mapping[str, Mapping[str, Callable[[], Iterator[str]]]] = {
    "prose": {
        "python_manual": _manual,
        "mathematics": lambda: _docstrings("sympy", "mpmath", "networkx"),
        "science": lambda: _docstrings("scipy", "numpy"),
        "learning": lambda: _docstrings("torch", "transformers"),
    },
    "shifted": {
        "cpp_headers": DOMAINS["cpp_headers"],
        "licences": DOMAINS["licences"],
        "python_code": DOMAINS["python_code"],
        "readmes": _readmes,
    },
}
"""By setting and silo, where its documents come from."""
