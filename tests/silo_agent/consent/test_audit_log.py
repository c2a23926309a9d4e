"""The audit log: every way to change what it says is found, and a crash loses nothing that was said."""

import json
import multiprocessing
import os
import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crypto.errors import InputError
from silo_agent.consent.audit_log import (
    AUDIT_FILE,
    EVENTS,
    FIRST,
    TORN_FILE,
    AuditLog,
    BrokenAuditLog,
    verify_audit_log,
)
from silo_agent.consent.audit_log import read_audit_log as read
from silo_agent.consent.state_store import STATE_FILE, StateStore

NOW = datetime(2026, 11, 28, 12, 30, 5, 250_000, tzinfo=timezone(timedelta(hours=1)))


def written(folder: Path, count: int, **fields: Any) -> Path:
    """A log of so many events."""
    log = AuditLog(folder)
    for number in range(count):
        log.append("release", "agent", NOW, round=number, **fields)
    return folder / AUDIT_FILE


def noted_head(folder: Path) -> tuple[int, str] | None:
    return StateStore(folder / STATE_FILE).audit_head()


def line_by_hand(sequence: int, previous: str, **fields: object) -> bytes:
    """As docs/formats.md says: keys ascending, no spaces, ASCII."""
    event = {"by": "agent", "event": "release", "sequence": sequence, "time": "2026-11-28T11:30:05.250+00:00"}
    event |= {**fields, "previous": previous}
    items = (f"{json.dumps(name)}:{json.dumps(event[name], separators=(',', ':'))}" for name in sorted(event))
    return ("{" + ",".join(items) + "}").encode()


def chained(events: list[dict[str, object]], start: int = 0, previous: str = FIRST) -> list[bytes]:
    lines = []
    for number, fields in enumerate(events, start=start + 1):
        lines.append(line_by_hand(number, previous, **fields))
        previous = sha256(lines[-1]).hexdigest()
    return lines


def save(file: Path, lines: list[bytes]) -> None:
    file.write_bytes(b"".join(line + b"\n" for line in lines))


# What is written.


def test_lines_by_hand(tmp_path: Path) -> None:
    events: list[dict[str, object]] = [{"round": 0, "silos": ["a", "b"]}, {"round": 1, "silos": ["a", "b"]}]
    file = written(tmp_path / "state", 2, silos=["a", "b"])
    lines = chained(events)
    assert file.read_bytes() == b"".join(line + b"\n" for line in lines)
    head = 2, sha256(lines[1]).hexdigest()
    assert verify_audit_log(file) == verify_audit_log(file, head) == noted_head(file.parent) == head
    assert [event["round"] for event in read(file)] == [0, 1]


def test_nobody_elses_to_read(tmp_path: Path) -> None:
    file = written(tmp_path / "state", 1)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_whatever_a_person_writes_is_one_line(tmp_path: Path) -> None:
    AuditLog(tmp_path).append("rejected", "Ä\nB", NOW, reason='no: "\u2028\r\n\x1b[31m{}')
    file = written(tmp_path, 1)
    assert file.read_bytes().count(b"\n") == verify_audit_log(file)[0] == 2
    assert file.read_bytes().isascii()
    assert read(file)[0]["reason"] == 'no: "\u2028\r\n\x1b[31m{}'


def test_only_known_events_of_a_line_at_most(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no event"):
        AuditLog(tmp_path).append("keep_mask", "agent", NOW)
    with pytest.raises(InputError, match="at most 65536"):
        AuditLog(tmp_path).append("rejected", "agent", NOW, reason="x" * 70_000)
    for event in sorted(EVENTS):
        AuditLog(tmp_path).append(event, "agent", NOW, reason="x" * 65_000)  # the tail is read in one piece
    assert verify_audit_log(tmp_path / AUDIT_FILE)[0] == len(EVENTS) == 17


def test_before_the_first_event(tmp_path: Path) -> None:
    AuditLog(tmp_path)
    assert read(tmp_path / AUDIT_FILE) == []
    with pytest.raises(InputError, match=r"audit\.jsonl: cannot be read: No such file"):
        verify_audit_log(tmp_path / AUDIT_FILE)
    (tmp_path / AUDIT_FILE).touch()
    assert verify_audit_log(tmp_path / AUDIT_FILE) == (0, FIRST)


def _append(folder: Path, by: str) -> None:
    for number in range(15):
        AuditLog(folder).append("release", by, NOW, round=number)


def test_several_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(tmp_path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert verify_audit_log(tmp_path / AUDIT_FILE) == noted_head(tmp_path)
    events = read(tmp_path / AUDIT_FILE)
    for name in "abc":  # each in its own order
        assert [event["round"] for event in events if event["by"] == name] == list(range(15))


# Crashes.


@given(st.integers(1, 5), st.data())
def test_half_a_line_is_kept_and_the_log_goes_on(count: int, data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = written(folder, count)
        whole, head = file.read_bytes(), noted_head(folder)
        assert head is not None
        following = line_by_hand(count + 1, head[1], round=count) + b"\n"
        torn = following[: data.draw(st.integers(1, len(following) - 1))]
        file.write_bytes(whole + torn)
        with pytest.raises(BrokenAuditLog, match="is torn") as refused:
            verify_audit_log(file)
        assert refused.value.line == count + 1
        AuditLog(folder).append("release", "agent", NOW, round=count)
        assert file.read_bytes() == whole + following
        assert (folder / TORN_FILE).read_bytes() == torn + b"\n"
        assert (folder / TORN_FILE).stat().st_mode & 0o777 == 0o600
        assert verify_audit_log(file)[0] == count + 1


def test_a_line_that_was_not_noted_any_more_counts(tmp_path: Path) -> None:
    """Killed between the two: the line is on disk, and the head is that of the line before."""
    file = written(tmp_path, 3)
    head = noted_head(tmp_path)
    assert head is not None
    with file.open("ab") as log:
        log.write(line_by_hand(4, head[1], round=3) + b"\n")
    written(tmp_path, 1)
    assert verify_audit_log(file)[0] == 5


def test_a_state_store_that_is_new_or_older_takes_a_log_that_is_whole(tmp_path: Path) -> None:
    file = written(tmp_path, 2)
    older = (tmp_path / STATE_FILE).read_bytes()
    written(tmp_path, 3)
    (tmp_path / STATE_FILE).write_bytes(older)
    written(tmp_path, 1)
    (tmp_path / STATE_FILE).unlink()
    written(tmp_path, 1)
    assert verify_audit_log(file, noted_head(tmp_path))[0] == 7
    (tmp_path / STATE_FILE).unlink()
    lines = file.read_bytes().splitlines()
    save(file, [*lines[:2], lines[2].replace(b"agent", b"nobody"), *lines[3:]])
    with pytest.raises(BrokenAuditLog, match="line 3: was altered"):
        written(tmp_path, 1)


# Whatever is changed is found, and nothing is added to it.


def refuses_to_go_on(folder: Path) -> None:
    file = folder / AUDIT_FILE
    before = file.read_bytes()
    with pytest.raises(BrokenAuditLog) as refused:
        AuditLog(folder).append("release", "agent", NOW)
    assert "away, as evidence" in refused.value.hint
    assert file.read_bytes() == before


def found(file: Path, head: tuple[int, str] | None = None) -> BrokenAuditLog:
    with pytest.raises(BrokenAuditLog) as refused:
        verify_audit_log(file, head)
    assert str(refused.value).startswith(f"{file}: line {refused.value.line}: ")
    assert refused.value.code == "audit_log"
    return refused.value


Tampering = Callable[[list[bytes], random.Random], tuple[list[bytes], int, str]]
"""Of a log's lines: others, the first wrong one, and what is said of it."""


def altered(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    at = rng.randrange(len(lines))
    event = json.loads(lines[at])
    event[rng.choice(("by", "event", "time"))] += "x"
    changed = json.dumps(event, sort_keys=True, separators=(",", ":")).encode()
    return [*lines[:at], changed, *lines[at + 1 :]], at + 1, "altered"


def its_link_altered(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    at = rng.randrange(len(lines))
    event = {**json.loads(lines[at]), "previous": "f" * 64}
    changed = json.dumps(event, sort_keys=True, separators=(",", ":")).encode()
    return [*lines[:at], changed, *lines[at + 1 :]], at + 1, "altered"


def spelled_otherwise(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    at = rng.randrange(len(lines))
    event = json.loads(lines[at])
    spelling = rng.choice(
        (
            json.dumps(event).encode(),
            lines[at][:-1] + b" }",
            b"[]",
            b"{",
            b"",
            b"null",
            b'{"sequence":1}',
            b"[" * 10_000,
        )
    )
    return [*lines[:at], spelling, *lines[at + 1 :]], at + 1, "is n"


def deleted(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    at = rng.randrange(len(lines) - 1)
    many = rng.randrange(1, len(lines) - at)
    return [*lines[:at], *lines[at + many :]], at + 1, "missing, or moved"


def truncated(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    at = rng.randrange(len(lines))
    return lines[:at], at + 1, f"missing, and so is what followed up to {len(lines)}"


def repeated(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    at = rng.randrange(len(lines))
    return [*lines[: at + 1], lines[rng.randrange(at + 1)], *lines[at + 1 :]], at + 2, "put in or moved"


def exchanged(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    one, other = sorted(rng.sample(range(len(lines)), 2))
    moved = list(lines)
    moved[one], moved[other] = moved[other], moved[one]
    return moved, one + 1, "missing, or moved"


def written_anew(lines: list[bytes], rng: random.Random) -> tuple[list[bytes], int, str]:
    """From some line on, with every link as it should be: only the head tells."""
    at = rng.randrange(len(lines))
    previous = json.loads(lines[at])["previous"]
    others: list[dict[str, object]] = [{"round": -1}] * (len(lines) - at)
    return [*lines[:at], *chained(others, at, previous)], len(lines), "not the one that was noted"


@pytest.mark.parametrize(
    "tampering",
    [altered, its_link_altered, spelled_otherwise, deleted, truncated, repeated, exchanged, written_anew],
)
@given(st.integers(2, 7), st.randoms(use_true_random=False))
def test_tampering_is_found_where_it_was_done(tampering: Tampering, count: int, rng: random.Random) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        file, head = written(folder, count), noted_head(folder)
        lines = file.read_bytes().splitlines()
        assert verify_audit_log(file, head) == head
        changed, wrong, said = tampering(lines, rng)
        assume(changed != lines)
        save(file, changed)
        error = found(file, head)
        if tampering is altered and wrong == count:
            said = "not the one that was noted"
        assert error.line == wrong
        assert said in error.message
        if changed and changed[-1] != lines[-1]:
            refuses_to_go_on(folder)


@given(st.integers(3, 7), st.randoms(use_true_random=False))
def test_a_line_put_in_with_the_right_link(count: int, rng: random.Random) -> None:
    """The one after it does not fit any more, which has its number too."""
    with TemporaryDirectory() as name:
        file = written(Path(name), count)
        lines = file.read_bytes().splitlines()
        at = rng.randrange(count)
        previous = json.loads(lines[at])["previous"]
        save(file, [*lines[:at], line_by_hand(at + 1, previous, round=-1), *lines[at:]])
        error = found(file)
        assert error.line == at + 2
        assert "here or right before" in error.message


@given(st.binary(min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_any_other_bytes_anywhere(noise: bytes, rng: random.Random) -> None:
    with TemporaryDirectory() as name:
        file = written(Path(name), 4)
        content, head = file.read_bytes(), noted_head(Path(name))
        at = rng.randrange(len(content))
        changed = content[:at] + noise + content[at + rng.randrange(4) :]
        assume(changed != content)
        file.write_bytes(changed)
        line = found(file, head).line
        assert content[:at].count(b"\n") + 1 in (line, line - 1)


def test_a_last_line_that_is_empty(tmp_path: Path) -> None:
    file = written(tmp_path, 1)
    for content in (b"\n", file.read_bytes() + b"\n"):
        file.write_bytes(content)
        refuses_to_go_on(tmp_path)


@pytest.mark.parametrize("kept", [1, 3])
def test_a_copy_is_held_against_a_head_that_was_noted_earlier(kept: int, tmp_path: Path) -> None:
    file = written(tmp_path, 2)
    noted = noted_head(tmp_path)
    written(tmp_path, 3)
    save(file, file.read_bytes().splitlines()[:kept])
    if kept == 1:
        assert verify_audit_log(file)[0] == 1  # the chain alone does not tell
        assert found(file, noted).line == 2
    else:
        assert verify_audit_log(file, noted)[0] == 3
    assert found(file, (1, "0" * 64)).line == 1


def test_a_log_that_was_emptied_goes_on_at_its_number_and_tells_ever_after(tmp_path: Path) -> None:
    file = written(tmp_path, 3)
    old = file.read_bytes()
    file.write_bytes(b"")
    assert found(file, noted_head(tmp_path)).line == 1
    written(tmp_path, 1)
    assert found(file).message.endswith("has the number 4: what was between is missing, or moved")
    file.write_bytes(old + file.read_bytes())  # nothing is lost where it was only moved away
    assert verify_audit_log(file, noted_head(tmp_path))[0] == 4


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, 1)
    real = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) > 20:
            return real(descriptor, content[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            written(tmp_path, 1)
    written(tmp_path, 1)
    assert verify_audit_log(file, noted_head(tmp_path))[0] == 2
