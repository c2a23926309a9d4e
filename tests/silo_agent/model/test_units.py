"""Which records become a unit's sequences, which units are used, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from crypto.errors import CalibrationError
from silo_agent.model.calibration import records
from silo_agent.model.units import read_units
from support.models import tokenizer

TOKENIZER = tokenizer()


def written(folder: Path, *lines: Any) -> Path:
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def ids(*texts: str) -> list[int]:
    return [token for text in texts for token in TOKENIZER(text)["input_ids"]]


def units_of(file: Path, units: int = 10, length: int = 4, sequences: int = 8) -> list[list[list[int]]]:
    units_read: list[list[Tensor]] = read_units(
        file, TOKENIZER, units=units, sequence_length=length, sequences=sequences
    )
    return [[sequence.tolist() for sequence in unit] for unit in units_read]


def cut(tokens: list[int], length: int = 4) -> list[list[int]]:
    return [tokens[at : at + length] for at in range(0, len(tokens), length)]


@pytest.mark.clause("2.9.1")
def test_records_of_one_unit_are_joined_and_no_sequence_has_two_units(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"text": "the first of a", "unit": "a"},
        {"text": "a record by itself"},
        {"text": "the second of a", "unit": "a"},
        {"text": "another by itself", "unit": None},
        {"text": "seven", "unit": 7},
        {"text": "seven again", "unit": "7"},
    )
    assert units_of(file) == [
        cut(ids("the first of a", "the second of a")),
        cut(ids("a record by itself")),
        cut(ids("another by itself")),
        cut(ids("seven", "seven again")),
    ]


def test_units_beyond_those_that_are_used_are_left_out_and_late_records_of_the_others_are_not(tmp_path: Path) -> None:
    lines = [{"text": "one", "unit": "a"}, {"text": "two", "unit": "b"}, {"text": "three", "unit": "c"}]
    file = written(tmp_path, *lines, {"text": "four", "unit": "a"})
    assert units_of(file, units=2) == [cut(ids("one", "four")), cut(ids("two"))]


def test_an_emptied_unit_keeps_its_place(tmp_path: Path) -> None:
    lines = [{"text": "one", "unit": "a"}, {"text": ""}, {"text": "three", "unit": "c"}]
    assert units_of(written(tmp_path, *lines), units=2) == [cut(ids("one")), []]


def test_of_a_long_unit_the_first_sequences_are_used(tmp_path: Path) -> None:
    text = "a record that is much longer than what is looked at of it"
    assert units_of(written(tmp_path, {"text": text}), sequences=2) == [cut(ids(text)[:8])]


def test_a_text_file_is_one_unit(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("all of it\nis one record")
    assert units_of(file) == [cut(ids("all of it\nis one record"))]


@pytest.mark.parametrize("unit", [True, 1.5, ["a"], {}])
def test_a_unit_that_names_nobody_is_refused(unit: Any, tmp_path: Path) -> None:
    file = written(tmp_path, {"text": "fine"}, {"text": "private", "unit": unit})
    with pytest.raises(CalibrationError, match="line 2: `unit` is neither a text nor a whole number") as refused:
        list(records(file))
    assert "private" not in str(refused.value)
