"""Config files of other people: whatever they hold is read or refused, at once."""

import sys
from pathlib import Path
from typing import Final

import pytest

from crypto.errors import ConfigError
from silo_agent.settings.plain_yaml import MOST_BYTES, MOST_DEPTH, read_mapping

MOST_STEPS_A_BYTE: Final = 200
"""Calls and returns of the reader: the dearest file here takes 126, and one that takes long takes thousands."""


def nested(depth: int) -> str:
    return "a: " + "[" * (depth - 1) + "]" * (depth - 1)


def check_steps(file: Path) -> None:
    """Read the file, and fail where the steps taken do not follow its length. A clock would time the machine."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        read_mapping(file)
    finally:
        sys.setprofile(None)
        assert steps < MOST_STEPS_A_BYTE * (100 + file.stat().st_size)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (nested(MOST_DEPTH + 1), "line 1: is nested more than 8 deep"),
        ("a: " + "[" * 60_000, "line 1: is nested more than 8 deep"),
        ("a:\n" + "".join(f"{' ' * depth}b:\n" for depth in range(1, 300)), "line 8: is nested more than 8 deep"),
        ("- " * 30_000, "line 1: is nested more than 8 deep"),
        ("? " * 30_000, "line 1: is nested more than 8 deep"),
        ("a: 1\nb: &x [1]\nc: *x\n", "line 2: has an anchor, an alias or a tag"),
        ("a: 1\nb: *x\n", "line 2: has an anchor, an alias or a tag"),
        ("a: !!int ''", "line 1: has an anchor, an alias or a tag"),  # PyYAML's own IndexError
        ("a: !!bool maybe", "line 1: has an anchor, an alias or a tag"),  # its KeyError
        ("a: !x 1", "line 1: has an anchor, an alias or a tag"),
        ("a: 1\nb: " + "1:" * 30_000 + "1", "line 2: has a number of more than 64 characters"),
        ("a: 0x" + "f" * 10_000, "line 1: has a number of more than 64 characters"),
        ('a: 1\n\nb: "\\0"', "line 3: has a text with a zero or half a character"),
        ('a: "\\ud83d"', "line 1: has a text with a zero or half a character"),
        ('a: "\\UFFFFFFFF"', r"line \?: is not YAML"),
        ("a: 0001-01-01T00:00:00+24:00", r"line \?: is not YAML"),  # before the first day that there is
        ("a" * (MOST_BYTES + 1), "is longer than 65536 bytes"),
        ("a: 1\nb: 2\na: 1\n", "line 3: has a field for the second time"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: has a field for the second time"),
        ('"a": 1\na: 1\n', "line 2: has a field for the second time"),
        ("- a", "must hold `field: value` lines"),
        ("? [a]\n: b", "line 1: is not YAML"),
        ("1: b", "must hold `field: value` lines"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"agent\.yaml: {problem}"):
        check_steps(file)


@pytest.mark.parametrize(
    "content",
    [
        "a: [" + "[]," * 21_000 + "]",
        "a:\n" + "- a\n" * 16_000,
        "a: {" + ",".join(f"{number:x}: c" for number in range(7_000)) + "}",
        "a: {" + ",".join(f"? {number:x}" for number in range(8_000)) + "}",
        "".join(f"k{number}: 1\n" for number in range(6_000)),
        'a: "' + "\\x41" * 16_000 + '"',
        "a: |\n" + " a\n" * 21_000,
        nested(MOST_DEPTH),
    ],
)
def test_no_file_takes_long(tmp_path: Path, content: str) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(content)
    check_steps(file)
