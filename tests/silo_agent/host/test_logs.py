"""Lines of the log as JSON: one object a line, with the round that is going on, and with what ended the process."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crypto.errors import ConfigError
from silo_agent.host.logs import LogFormat, lines_about, logging_as

LOGGER = logging.getLogger("sparsilo.test")


@contextmanager
def new_process() -> Iterator[None]:
    """As in a process in which nobody logs yet: the test runner's own handlers are away."""
    root = logging.getLogger()
    handlers, root.handlers, level = root.handlers, [], root.level
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def test_a_line_is_an_object_and_names_the_round_while_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with new_process(), logging_as(LogFormat.JSON):
        LOGGER.info("two\nlines and %d", 1)
        with lines_about("0123456789abcdef", 3):
            LOGGER.warning("phase upload")
        LOGGER.info("over")
    first, during, after = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.pop("ts").endswith("+00:00")
    assert first == {"level": "info", "logger": "sparsilo.test", "message": "two\nlines and 1"}
    assert (during["level"], during["run"], during["round"]) == ("warning", "0123456789abcdef", 3)
    assert after.keys() == {"ts", "level", "logger", "message"}


def test_a_traceback_and_the_error_that_ends_the_process_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="4"), new_process(), logging_as(LogFormat.JSON):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            LOGGER.exception("broken")
        raise ConfigError("no such file", hint="make it")
    broken, last = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert "ZeroDivisionError" in broken["error"]
    assert (last["level"], last["message"]) == ("critical", "no such file (make it)")


def test_as_text_a_line_is_text_and_an_error_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError), new_process(), logging_as(LogFormat.TEXT):
        LOGGER.info("begun")
        raise ConfigError("no such file")
    assert capsys.readouterr().err.endswith(" INFO begun\n")
