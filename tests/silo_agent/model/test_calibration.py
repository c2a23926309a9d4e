"""Calibration files to sequences, against a reader that tokenises everything first."""

import copy
import io
import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from crypto.errors import CalibrationError, ConfigError
from silo_agent.model import calibration
from silo_agent.model.calibration import check_text, data_digest, read_sequences, usual_length
from support.models import family, tokenizer, words


def test_usual_length() -> None:
    assert [usual_length(family("llama", max_position_embeddings=most), None) for most in (64, 4096)] == [64, 2048]
    assert usual_length(family("llama", max_position_embeddings=64), 64) == 64
    with pytest.raises(ConfigError, match="--sequence-length: 65 tokens, the model has 64 positions"):
        usual_length(family("llama", max_position_embeddings=64), 65)


def test_txt_is_one_record_with_special_tokens_once(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    text = "First line\r\nsecond line, 1 €\n\n" + words(2000, seed=1)
    file.write_bytes(text.encode())
    ids = tokenizer()(text)["input_ids"]
    assert ids.count(0) == 1  # the tokenizer adds its <s>
    samples, held_out = read_sequences(file, tokenizer(), samples=5, sequence_length=16, held_out=3)
    assert samples.dtype == held_out.dtype == torch.int64
    assert samples.tolist() == [ids[16 * i : 16 * i + 16] for i in range(5)]
    assert held_out.tolist() == [ids[16 * i : 16 * i + 16] for i in range(5, 8)]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 4), st.integers(2, 6))
def test_jsonl_records_are_concatenated_in_file_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], samples: int, held_out: int, length: int
) -> None:
    file = tmp_path_factory.mktemp("jsonl") / "notes.jsonl"
    lines = [
        json.dumps({"unit": f"person {i % 2}", "text": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)
    ]
    file.write_text("\n\n".join(lines), encoding="utf-8")
    ids = [token for text in texts for token in tokenizer()(text, verbose=False)["input_ids"]]
    if len(ids) < (samples + held_out) * length:
        with pytest.raises(CalibrationError, match=f"notes.jsonl: has {len(ids) // length} whole sequences"):
            read_sequences(file, tokenizer(), samples=samples, sequence_length=length, held_out=held_out)
        return
    first, then = read_sequences(file, tokenizer(), samples=samples, sequence_length=length, held_out=held_out)
    assert first.shape == (samples, length) and then.shape == (held_out, length)
    assert first.flatten().tolist() + then.flatten().tolist() == ids[: (samples + held_out) * length]


def test_exactly_enough_is_enough_and_one_token_less_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(words(500, seed=2))
    total = len(tokenizer()(file.read_text(), verbose=False)["input_ids"])
    samples, _ = read_sequences(file, tokenizer(), samples=1, sequence_length=total)
    assert samples.numel() == total
    with pytest.raises(CalibrationError, match=r"has 0 whole sequences of \d+ tokens; 1 are needed"):
        read_sequences(file, tokenizer(), samples=1, sequence_length=total + 1)


def test_reads_no_further_than_needed(tmp_path: Path) -> None:
    file = tmp_path / "big.jsonl"
    text = words(400, seed=3)
    file.write_text(json.dumps({"text": text}) + "\nnot read\n")
    enough = len(tokenizer()(text, verbose=False)["input_ids"])
    read_sequences(file, tokenizer(), samples=1, sequence_length=enough)
    with pytest.raises(CalibrationError, match="line 2"):
        read_sequences(file, tokenizer(), samples=1, sequence_length=enough + 1)


def test_a_record_longer_than_a_call_of_the_tokenizer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last line break that fits, or after as much as fits; nothing is left out, and no more is tokenised."""
    monkeypatch.setattr(calibration, "MOST_CHARACTERS", 10)
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\nthree\n" + "x" * 23 + "\n\nend")
    seen = list[str]()

    def one_a_character(piece: str, verbose: bool) -> dict[str, list[int]]:
        seen.append(piece)
        return {"input_ids": list(piece.encode())}

    samples, _ = read_sequences(file, one_a_character, samples=1, sequence_length=40)
    assert seen == ["one\ntwo\n", "three\n", "x" * 10, "x" * 10, "xxx\n\nend"]
    assert bytes(samples[0].tolist()) == file.read_bytes()[:40]
    seen.clear()
    read_sequences(file, one_a_character, samples=1, sequence_length=9)
    assert seen == ["one\ntwo\n", "three\n"]


def test_a_line_that_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST_LINE_BYTES", 30)
    file = tmp_path / "a.jsonl"
    line = '{"text": "12345678901234567"}\n'
    assert len(line) == 30
    file.write_text(line + "\n" + line)
    check_text(file)
    file.write_text(line + "\n " + line)
    with pytest.raises(CalibrationError, match=r"a\.jsonl: line 3: is longer than 30 bytes"):
        check_text(file)


def test_four_megabytes_in_a_line(tmp_path: Path) -> None:
    """In pieces of a fraction of a second each: what comes between them, such as Ctrl-C, need not wait longer."""
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "the quick brown fox " * 200_000}))
    check_text(file)
    samples, _ = read_sequences(file, tokenizer(), samples=8, sequence_length=128)
    assert samples.shape == (8, 128)


def test_a_long_record_does_not_warn(tmp_path: Path) -> None:
    seen = io.StringIO()
    handler = logging.StreamHandler(seen)
    logging.getLogger("transformers").addHandler(handler)
    try:
        file = tmp_path / "long.txt"
        file.write_text(words(3000, seed=4))  # far above the tokenizer's model_max_length of 64
        fresh = tokenizer.__wrapped__()  # a tokenizer warns only once
        read_sequences(file, fresh, samples=4, sequence_length=64)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert not seen.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt: No such file"),
        ("folder.txt", "folder", "folder.txt: Is a directory"),
        ("empty.jsonl", b"\n \n", "empty.jsonl: has 0 whole sequences"),
        ("short.txt", b"hello", "short.txt: has 0 whole sequences of 256 tokens; 64 [+] 32 held out are needed"),
        ("notes.csv", b"hello", "notes.csv: is neither .txt nor .jsonl"),
        ("latin.txt", b"one\ntwo\ncaf\xe9\n", "latin.txt: line 3: not UTF-8"),
        ("latin.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "latin.jsonl: line 2: not UTF-8"),
        ("broken.jsonl", b'{"text": "a"}\n\n{"text": "secret', "broken.jsonl: line 3: not valid JSON"),
        ("deep.jsonl", b"[" * 100_000, "deep.jsonl: line 1: not valid JSON"),
        ("list.jsonl", b'["text"]', "list.jsonl: line 1: no `text` string"),
        ("number.jsonl", b'{"text": "a"}\n{"text": 5}', "number.jsonl: line 2: no `text` string"),
        ("absent.jsonl", b'{"body": "a"}', "absent.jsonl: line 1: no `text` string"),
        ("half.jsonl", b'{"text": "\\ud800"}', "half.jsonl: line 1: `text` has a lone surrogate"),
    ],
)
def test_refuses(tmp_path: Path, name: str, content: bytes | str | None, message: str) -> None:
    file = tmp_path / name
    if content == "folder":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(CalibrationError, match=message) as raised:
        read_sequences(file, tokenizer(), samples=64, sequence_length=256, held_out=32)
    assert raised.value.hint
    assert "secret" not in str(raised.value)


@pytest.mark.clause("14.2.2")
@given(st.integers(1, 5), st.integers(0, 4), st.integers(2, 40), st.integers(0, 300))
def test_a_text_that_is_too_short_is_repeated_where_it_must_fill_sequences(
    tmp_path_factory: pytest.TempPathFactory, samples: int, held_out: int, length: int, characters: int
) -> None:
    file = tmp_path_factory.mktemp("short") / "notes.txt"
    file.write_text(words(characters, seed=1))
    ids = tokenizer()(file.read_text(), verbose=False)["input_ids"]
    first, then = read_sequences(
        file, tokenizer(), samples=samples, sequence_length=length, held_out=held_out, fill=True
    )
    assert first.shape == (samples, length) and then.shape == (held_out, length)
    found = first.flatten().tolist() + then.flatten().tolist()
    assert found == [ids[at % len(ids)] for at in range(len(found))]


@pytest.mark.clause("14.2.2")
def test_a_record_that_the_tokenizer_fails_on_is_named_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = {"a": 0, "patient": 1}
    make: Any = PreTrainedTokenizerFast
    strict = Tokenizer(models.WordLevel(known))  # without a token for unknown words
    strict.pre_tokenizer = pre_tokenizers.Whitespace()
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a patient", "secret", "patient")))
    asked: dict[str, Any] = {"tokenizer": make(tokenizer_object=strict), "samples": 2, "sequence_length": 2}
    with pytest.raises(CalibrationError, match=r"notes.jsonl: record 2: the tokenizer fails on it") as raised:
        read_sequences(file, **asked)
    assert read_sequences(file, **asked, fill=True)[0].tolist() == [[0, 1], [1, 0]]
    file.write_text(json.dumps({"text": "secret"}))
    assert read_sequences(file, **asked, fill=True)[0].tolist() == [[0, 0], [0, 0]]
    assert "secret" not in str(raised.value) + caplog.text


@pytest.mark.clause("14.2.2")
def test_a_rule_that_panics_on_a_record_is_no_other_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The library's panics are no Exception to Python. This rule tries more ways than it is allowed to."""
    bad, text = copy.deepcopy(tokenizer()), "a" * 40 + "!"
    bad.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?:(a|a?)+)+$"), "removed")
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps({"text": record}) + "\n" for record in ("b", text, "b" * 30)))
    asked: dict[str, Any] = {"tokenizer": bad, "samples": 2, "sequence_length": 4}
    with pytest.raises(CalibrationError, match=r"notes.jsonl: record 2: the tokenizer fails on it") as raised:
        read_sequences(file, **asked)
    assert read_sequences(file, **asked, fill=True)[0].shape == (2, 4)
    assert text not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("late.jsonl", b'{"text": "a"}\n{"text": 5}', "late.jsonl: line 2: no `text` string"),
        ("empty.txt", b"", "empty.txt: has no text"),
        ("blank.jsonl", b'\n{"text": ""}\n', "blank.jsonl: has no text"),
    ],
)
def test_the_whole_file_is_checked(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        check_text(file)
    file.write_bytes(b'{"text": "a"}')
    check_text(file)


def test_an_empty_txt_is_short(tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.touch()
    with pytest.raises(CalibrationError, match=r"empty.txt: has 0 whole sequences of 2 tokens; 1 are needed"):
        read_sequences(file, tokenizer(), samples=1, sequence_length=2)


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    for content in (b"", b"one\r\n", bytes(3 << 20)):
        file.write_bytes(content)
        assert data_digest(file) == sha256(content).digest()


def test_a_file_that_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(CalibrationError, match=f"^{file}: "):
            data_digest(file)
