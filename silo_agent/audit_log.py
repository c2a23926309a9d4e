"""The audit log: what was decided about plans and what left this silo, a JSON line each, chained by hashes.

Each line holds the SHA-256 of the line before it, so that no line can be altered, left out, put in or moved without
breaking every line after it. That lines at the end are missing only shows against a head, number and hash of the last
line, that was noted elsewhere; `silo-agent audit verify` prints it for that purpose. Nothing of text, keys, scores or
keep masks is ever in it.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from crypto.errors import InputError

AUDIT_FILE: Final = "audit.jsonl"
FIRST: Final = "0" * 64
"""`previous` of the first line."""
_TAIL_BYTES: Final = 1 << 16


class BrokenAuditLog(InputError):
    """A line of an audit log is not what the chain says."""

    code = "audit_log"


class AuditLog:
    """Appends to `audit.jsonl` in a state folder; several processes may."""

    def __init__(self, state: Path) -> None:
        self._file = state / AUDIT_FILE
        state.mkdir(mode=0o700, parents=True, exist_ok=True)

    def append(self, event: str, by: str, now: datetime, **fields: Any) -> None:
        """Returns when the line is on disk. Raises BrokenAuditLog where the last line is not one of a log."""
        with self._locked() as descriptor:
            last = self._last_line(descriptor)
            sequence = _parsed(last, self._file, "the last line")["sequence"] + 1 if last else 1
            line = _line(
                {
                    "sequence": sequence,
                    "time": now.astimezone(UTC).isoformat(timespec="milliseconds"),
                    "event": event,
                    "by": by,
                    **fields,
                    "previous": sha256(last).hexdigest() if last else FIRST,
                }
            )
            written = os.write(descriptor, line)
            if written != len(line):
                raise OSError(0, "the audit log could not be written", str(self._file))
            os.fsync(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _last_line(self, descriptor: int) -> bytes:
        """Without its line break. Half a line that a crash left is kept beside the log, out of the way."""
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        whole, is_ended, torn = tail.rpartition(b"\n")
        if torn:
            with self._file.with_suffix(".torn").open("ab") as kept:
                kept.write(torn + b"\n")
            os.ftruncate(descriptor, size - len(torn))
        return whole.rpartition(b"\n")[2] if is_ended else b""


def verify_audit_log(file: Path, head: tuple[int, str] | None = None) -> tuple[int, str]:
    """The log's head, number and SHA-256 (hex) of its last line, where every line is as it was written.

    With `head`, one that was noted earlier, that line has to be among them. Raises BrokenAuditLog naming the first line
    that is wrong.
    """
    previous, count, is_met = FIRST, 0, head is None or head == (0, FIRST)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BrokenAuditLog(f"{file}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        where = f"line {number}"
        event = _parsed(line.removesuffix(b"\n"), file, where)
        if not line.endswith(b"\n") or _line(event) != line:
            raise BrokenAuditLog(f"{file}: {where}: is not written as this log writes lines")
        if event["sequence"] != number or event["previous"] != previous:
            raise BrokenAuditLog(
                f"{file}: {where}: does not follow the line before it",
                hint="a line was altered, left out, put in or moved there or right before",
            )
        previous, count = sha256(line.removesuffix(b"\n")).hexdigest(), number
        is_met = is_met or (number, previous) == head
    if not is_met and head is not None:
        raise BrokenAuditLog(
            f"{file}: does not have line {head[0]} with the hash that was noted", hint="lines are missing"
        )
    return count, previous


def read_audit_log(file: Path) -> list[dict[str, Any]]:
    """Its events, unverified; none where there is no log."""
    if not file.exists():
        return []
    return [
        _parsed(line, file, f"line {number}") for number, line in enumerate(file.read_bytes().splitlines(), start=1)
    ]


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes, file: Path, where: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        raise BrokenAuditLog(f"{file}: {where}: is not JSON") from None
    if not isinstance(event, dict) or type(event.get("sequence")) is not int or "previous" not in event:
        raise BrokenAuditLog(f"{file}: {where}: is no event")
    return event
