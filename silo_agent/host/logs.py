"""What a process logs, on stderr: lines of text, or one JSON object a line where its config says so.

No line has a secret, nor a word of any text. Lines stay on the machine; who collects them is its people's choice.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from crypto.errors import SparsiloError

_log = logging.getLogger(__name__)
_present: Final[dict[str, object]] = {}
"""The run and the round that lines are about; a process has one at a time."""


class LogFormat(StrEnum):
    """How a line of the log is written."""

    TEXT = "text"
    JSON = "json"


class _JsonLine(logging.Formatter):
    """Writes a line as an object with `ts`, `level`, `logger`, `message`, and `run` and `round` during a round."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_present,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


@contextmanager
def logging_as(form: LogFormat, level: int = logging.INFO) -> Iterator[None]:
    """Log in that form, and where it is JSON also the error that ends the process."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonLine() if form is LogFormat.JSON else text)
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(form is LogFormat.JSON)
    try:
        yield
    except SparsiloError as error:
        if form is LogFormat.TEXT:
            raise
        _log.critical("%s", error)
        sys.exit(error.exit_code)


@contextmanager
def lines_about(run: str, round_: int) -> Iterator[None]:
    """Let lines in JSON name a run, by the beginning of its plan's digest, and a round, by its number."""
    _present.update(run=run, round=round_)
    try:
        yield
    finally:
        _present.clear()
