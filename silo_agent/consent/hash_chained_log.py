"""A log of JSON lines that are chained by hashes, as the audit log and the privacy ledger are.

Each line holds the SHA-256 of the line before it, so that no line can be altered, left out, put in or moved without
breaking the chain. A head is number and hash of the last line. Lines that are missing at the end show against a head
that was noted elsewhere.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from crypto.errors import InputError
from silo_agent.host.whole_file import sync

FIRST: Final = "0" * 64
"""What the first line has as the hash of the line before it."""
MOST_LINE_BYTES: Final = 1 << 16
"""The longest line that is written."""


class BrokenLine(InputError):
    """A line of a log is not what the chain says. `line` counts from 1."""

    def __init__(self, file: Path, line: int, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{file}: line {line}: {problem}", hint=hint)
        self.line = line


@dataclass(frozen=True)
class HashChainedLog:
    """One such log. Several processes may append to it."""

    file: Path
    texts: tuple[str, ...]
    """Fields in which every line has text, beside `time` and `previous`."""
    broken: type[BrokenLine]
    """The error for a line that is wrong."""

    @property
    def torn(self) -> Path:
        """The file that keeps half a line which a crash left in the log."""
        return self.file.with_suffix(".torn")

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Yield the open log, which is made where there is none, while no other process reads or writes it."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not os.fstat(descriptor).st_size:
                sync(self.file.parent)  # the name, too, has to be there after a crash
            yield descriptor
        finally:
            os.close(descriptor)

    def last_line(self, descriptor: int) -> bytes:
        """Return the last line of the locked log, nothing where there is none.

        Half a line, which never counted, is put beside the log first.
        """
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, 2 * MOST_LINE_BYTES, max(0, size - 2 * MOST_LINE_BYTES))
        whole, _, torn = tail.rpartition(b"\n")
        if torn:
            self._keep(torn)
            os.ftruncate(descriptor, size - len(torn))
        return b"" if size == len(torn) else whole[whole.rfind(b"\n") + 1 :] + b"\n"

    def locked_lines(self, descriptor: int) -> list[bytes]:
        """Return all lines of the locked log, with their line breaks."""
        return list(BytesIO(os.pread(descriptor, os.fstat(descriptor).st_size, 0)))

    def append(
        self, descriptor: int, head: tuple[int, str], fields: Mapping[str, Any], now: datetime
    ) -> tuple[int, str]:
        """Write one line after `head` to the locked log, and return the new head when it is on disk."""
        count, last = head
        time = now.astimezone(UTC).isoformat(timespec="milliseconds")
        line = _line({**fields, "sequence": count + 1, "time": time, "previous": last})
        if len(line) > MOST_LINE_BYTES:
            raise InputError(f"{self.file}: an event of {len(line)} bytes, at most {MOST_LINE_BYTES} are allowed")
        _write(descriptor, line)
        return count + 1, hash_of(line)

    def lines(self) -> Iterator[bytes]:
        """Yield the log's lines with their line breaks, while nobody appends. Raises InputError where it cannot."""
        try:
            with self.file.open("rb") as log:
                fcntl.flock(log, fcntl.LOCK_SH)
                yield from log
        except OSError as error:
            raise InputError(f"{self.file}: cannot be read: {error.strerror}") from None

    def verified(self, log: Iterable[bytes], head: tuple[int, str] | None) -> tuple[int, str]:
        """Check that every line is as it was written, and return the head of these lines.

        With a `head` that was noted earlier, that line has to be among them. Raises the log's error naming the first
        line that is wrong.
        """
        lines, previous = list(log), FIRST
        for number, line in enumerate(lines, start=1):
            event = self.parsed(number, line)
            if event["sequence"] != number:
                problem = (
                    f"has the number {event['sequence']}: a line was put in or moved, here or right before"
                    if event["sequence"] < number
                    else f"has the number {event['sequence']}: what was between is missing, or moved"
                )
                raise self.broken(self.file, number, problem)
            if event["previous"] != previous:
                # This line or the one before it: the next line, or the head, says whether this one is as written.
                following = lines[number] if number < len(lines) else b""
                is_as_written = hash_of(line).encode() in following or head == (number, hash_of(line))
                raise self.broken(self.file, number - 1 if is_as_written and number > 1 else number, "was altered")
            previous = hash_of(line)
            if head is not None and head[0] == number and head[1] != previous:
                raise self.broken(self.file, number, "is not the one that was noted: it, or one before it, was altered")
        if head is not None and len(lines) < head[0]:
            raise self.broken(self.file, len(lines) + 1, f"is missing, and so is what followed up to {head[0]}")
        return len(lines), previous

    def parsed(self, number: int, line: bytes) -> dict[str, Any]:
        """Return a line's event. Raises the log's error where it is none, or is not in its only spelling."""
        if not line.endswith(b"\n"):
            hint = f"after a crash the next event puts it into {self.torn.name}"
            raise self.broken(self.file, number, "is torn", hint=hint)
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            raise self.broken(self.file, number, "is no JSON") from None
        is_event = isinstance(event, dict) and type(event.get("sequence")) is int
        if not is_event or not all(isinstance(event.get(name), str) for name in ("time", "previous", *self.texts)):
            raise self.broken(self.file, number, "is no event")
        if _line(event) != line:
            raise self.broken(self.file, number, "is not written as this log writes lines")
        return dict(event)

    def _keep(self, torn: bytes) -> None:
        """Add half a line to the file for those."""
        descriptor = os.open(self.torn, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _write(descriptor, torn + b"\n")
        finally:
            os.close(descriptor)
        sync(self.file.parent)


def hash_of(line: bytes) -> str:
    """Return the SHA-256 (hex) of a line without its line break."""
    return sha256(line.removesuffix(b"\n")).hexdigest()


def _line(event: dict[str, Any]) -> bytes:
    """Return an event as its only spelling: keys ascending, no spaces, a line break at the end."""
    return json.dumps(event, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _write(descriptor: int, content: bytes) -> None:
    """Write all of `content`, and return when it is on disk."""
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)
