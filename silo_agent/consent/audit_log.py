"""The audit log: what was decided about plans and what left this silo, a JSON line each, chained by hashes.

Each line holds the SHA-256 of the line before it, so that no line can be altered, left out, put in or moved without
breaking the chain. A head is number and hash of the last line. Lines that are missing at the end show against a head
that was noted elsewhere: the state store keeps the present one, and `silo-agent audit verify` prints it, to be noted
outside. Whoever can write to the state folder can make log and state store anew; against them only a head that lies
outside helps.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from crypto.errors import InputError
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.host.whole_file import sync

AUDIT_FILE: Final = "audit.jsonl"
TORN_FILE: Final = "audit.torn"
"""The file that keeps half a line which a crash left in the log."""

EVENTS: Final = frozenset(
    {
        *("enrolled", "roster_pinned", "certificate_renewed", "ledger_forgotten"),
        *("accusation", "accusation_dismissed", "accusation_settled"),
        *("result_verified", "result_refused", "withdrawn"),
        *("plan_offered", "approved", "rejected", "refused", "release", "round_done", "round_failed"),
    }
)
"""Everything that a line can say has happened (docs/formats.md, section 13)."""
FIRST: Final = "0" * 64
"""What the first line has as the hash of the line before it."""
MOST_LINE_BYTES: Final = 1 << 16
"""The longest line that is written."""


class BrokenAuditLog(InputError):
    """A line of an audit log is not what the chain says. `line` counts from 1."""

    code = "audit_log"

    def __init__(self, file: Path, line: int, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{file}: line {line}: {problem}", hint=hint)
        self.line = line


class AuditLog:
    """The audit log in a state folder. Several processes may append to it."""

    def __init__(self, state: Path) -> None:
        """Open the state store in `state`; the log itself is made with its first line. Raises InputError."""
        self._file = state / AUDIT_FILE
        self._store = StateStore(state / STATE_FILE)

    def append(self, event: str, by: str, now: datetime, **fields: Any) -> None:
        """Write one line, and return when it is on disk.

        `event` is one of EVENTS, and `by` a person's name, `agent` or `policy`. `fields` are numbers and names; never
        text, keys, scores or keep masks. A log that was moved away goes on in a new file, which begins with the next
        number. Raises BrokenAuditLog where the log does not end with the line that was written last; it then stays as
        it is.
        """
        if event not in EVENTS:
            raise ValueError(f"{event} is no event of the audit log")
        with self._locked() as descriptor:
            count, last = self._end(descriptor)
            line = _line(
                {
                    **fields,
                    "sequence": count + 1,
                    "time": now.astimezone(UTC).isoformat(timespec="milliseconds"),
                    "event": event,
                    "by": by,
                    "previous": last,
                }
            )
            if len(line) > MOST_LINE_BYTES:
                raise InputError(f"{self._file}: an event of {len(line)} bytes, at most {MOST_LINE_BYTES} are allowed")
            _write(descriptor, line)
            self._store.note_audit_head(count + 1, _hash(line))

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Yield the open log, while no other process reads or writes it."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not os.fstat(descriptor).st_size:
                sync(self._file.parent)  # the name, too, has to be there after a crash
            yield descriptor
        finally:
            os.close(descriptor)

    def _end(self, descriptor: int) -> tuple[int, str]:
        """Return the log's head. Half a line, whose event never counted, is put beside the log first."""
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, 2 * MOST_LINE_BYTES, max(0, size - 2 * MOST_LINE_BYTES))
        whole, _, torn = tail.rpartition(b"\n")
        if torn:
            self._keep(torn)
            os.ftruncate(descriptor, size - len(torn))
        head = self._store.audit_head()
        if size == len(torn):
            return head or (0, FIRST)
        line = whole[whole.rfind(b"\n") + 1 :] + b"\n"
        try:
            event = _parsed(self._file, head[0] if head else 1, line)
            end = event["sequence"], _hash(line)
            # A crash after the line was written and before it was noted leaves the state store one line behind.
            if head in (end, (event["sequence"] - 1, event["previous"])):
                return end
            return _verified(self._file, BytesIO(os.pread(descriptor, size - len(torn), 0)), head)
        except BrokenAuditLog as error:
            error.hint = f"nothing was added. Move {self._file} away, as evidence; the log goes on in a new file"
            raise

    def _keep(self, torn: bytes) -> None:
        """Add half a line to TORN_FILE."""
        descriptor = os.open(self._file.with_name(TORN_FILE), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _write(descriptor, torn + b"\n")
        finally:
            os.close(descriptor)
        sync(self._file.parent)


def verify_audit_log(file: Path, head: tuple[int, str] | None = None) -> tuple[int, str]:
    """Check that every line is as it was written; return the log's head: number and SHA-256 (hex) of its last line.

    With a `head` that was noted earlier, that line has to be in the log. Raises BrokenAuditLog naming the first line
    that is wrong, InputError where the log cannot be read.
    """
    return _verified(file, _lines(file), head)


def _verified(file: Path, log: Iterable[bytes], head: tuple[int, str] | None) -> tuple[int, str]:
    """Return the head of `log`, line by line, as `verify_audit_log` does; `file` is named in errors."""
    lines, previous = list(log), FIRST
    for number, line in enumerate(lines, start=1):
        event = _parsed(file, number, line)
        if event["sequence"] != number:
            problem = (
                f"has the number {event['sequence']}: a line was put in or moved, here or right before"
                if event["sequence"] < number
                else f"has the number {event['sequence']}: what was between is missing, or moved"
            )
            raise BrokenAuditLog(file, number, problem)
        if event["previous"] != previous:
            # This line or the one before it: the next line, or the head, says whether this one is as it was written.
            following = lines[number] if number < len(lines) else b""
            is_as_written = _hash(line).encode() in following or head == (number, _hash(line))
            raise BrokenAuditLog(file, number - 1 if is_as_written and number > 1 else number, "was altered")
        previous = _hash(line)
        if head is not None and head[0] == number and head[1] != previous:
            raise BrokenAuditLog(file, number, "is not the one that was noted: it, or one before it, was altered")
    if head is not None and len(lines) < head[0]:
        raise BrokenAuditLog(file, len(lines) + 1, f"is missing, and so is what followed up to {head[0]}")
    return len(lines), previous


def read_audit_log(file: Path) -> list[dict[str, Any]]:
    """Return the log's events, unverified; none where there is no log. Raises BrokenAuditLog or InputError."""
    if not file.exists():
        return []
    return [_parsed(file, number, line) for number, line in enumerate(_lines(file), start=1)]


def _lines(file: Path) -> Iterator[bytes]:
    """Yield the log's lines with their line breaks, while nobody appends."""
    try:
        with file.open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH)
            yield from log
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None


def _line(event: dict[str, Any]) -> bytes:
    """Return an event as its only spelling: keys ascending, no spaces, a line break at the end."""
    return json.dumps(event, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _hash(line: bytes) -> str:
    """Return the SHA-256 (hex) of a line without its line break."""
    return sha256(line.removesuffix(b"\n")).hexdigest()


def _parsed(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """Return a line's event. Raises BrokenAuditLog where it is none, or is not in its only spelling."""
    if not line.endswith(b"\n"):
        raise BrokenAuditLog(file, number, "is torn", hint=f"after a crash the next event puts it into {TORN_FILE}")
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        raise BrokenAuditLog(file, number, "is no JSON") from None
    texts = ("time", "event", "by", "previous")
    is_event = isinstance(event, dict) and type(event.get("sequence")) is int
    if not is_event or not all(isinstance(event.get(name), str) for name in texts):
        raise BrokenAuditLog(file, number, "is no event")
    if _line(event) != line:
        raise BrokenAuditLog(file, number, "is not written as this log writes lines")
    return dict(event)


def _write(descriptor: int, content: bytes) -> None:
    """Write all of `content`, and return when it is on disk."""
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)
