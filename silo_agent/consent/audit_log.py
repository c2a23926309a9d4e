"""The audit log: what was decided about plans and what left this silo, a JSON line each, chained by hashes.

The state store keeps the present head, and `silo-agent audit verify` prints it, to be noted outside. Whoever can write
to the state folder can make log and state store anew; against them only a head that lies outside helps.
"""

from datetime import datetime
from pathlib import Path
from typing import Any, Final

from silo_agent.consent.hash_chained_log import FIRST, BrokenLine, HashChainedLog, hash_of
from silo_agent.consent.state_store import STATE_FILE, StateStore

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


class BrokenAuditLog(BrokenLine):
    """A line of an audit log is not what the chain says. `line` counts from 1."""

    code = "audit_log"


class AuditLog:
    """The audit log in a state folder. Several processes may append to it."""

    def __init__(self, state: Path) -> None:
        """Open the state store in `state`; the log itself is made with its first line. Raises InputError."""
        self._log = _log(state / AUDIT_FILE)
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
        with self._log.locked() as descriptor:
            head = self._log.append(descriptor, self._end(descriptor), {**fields, "event": event, "by": by}, now)
            self._store.note_audit_head(*head)

    def _end(self, descriptor: int) -> tuple[int, str]:
        """Return the log's head. Half a line, whose event never counted, is put beside the log first."""
        line, head = self._log.last_line(descriptor), self._store.audit_head()
        if not line:
            return head or (0, FIRST)
        try:
            event = self._log.parsed(head[0] if head else 1, line)
            end = event["sequence"], hash_of(line)
            # A crash after the line was written and before it was noted leaves the state store one line behind.
            if head in (end, (event["sequence"] - 1, event["previous"])):
                return end
            return self._log.verified(self._log.locked_lines(descriptor), head)
        except BrokenAuditLog as error:
            error.hint = f"nothing was added. Move {self._log.file} away, as evidence; the log goes on in a new file"
            raise


def verify_audit_log(file: Path, head: tuple[int, str] | None = None) -> tuple[int, str]:
    """Check that every line is as it was written; return the log's head: number and SHA-256 (hex) of its last line.

    With a `head` that was noted earlier, that line has to be in the log. Raises BrokenAuditLog naming the first line
    that is wrong, InputError where the log cannot be read.
    """
    log = _log(file)
    return log.verified(log.lines(), head)


def read_audit_log(file: Path) -> list[dict[str, Any]]:
    """Return the log's events, unverified; none where there is no log. Raises BrokenAuditLog or InputError."""
    if not file.exists():
        return []
    log = _log(file)
    return [log.parsed(number, line) for number, line in enumerate(log.lines(), start=1)]


def _log(file: Path) -> HashChainedLog:
    return HashChainedLog(file, ("event", "by"), BrokenAuditLog)
