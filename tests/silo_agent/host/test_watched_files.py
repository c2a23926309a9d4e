"""Files that were replaced are read again once they fit together, and not before."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crypto.errors import IdentityError
from silo_agent.host.watched_files import WatchedFiles

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    files = tmp_path / "a", tmp_path / "b"
    put(files, "1")
    return files


def put(files: tuple[Path, Path], content: str) -> None:
    for file in files:
        file.write_text(content)


def watched(files: tuple[Path, Path]) -> WatchedFiles[str]:
    """Files that fit together when they hold the same."""

    def read(now: datetime) -> str:
        assert now == NOW
        first, second = (file.read_text() if file.exists() else "" for file in files)
        if not first or first != second:
            raise IdentityError("do not fit together")
        return first

    return WatchedFiles(files, read, NOW)


def test_files_that_stay_are_not_read_again(files: tuple[Path, Path]) -> None:
    own = watched(files)
    assert not own.were_replaced()
    assert not own.take_up(NOW)
    assert own.content == "1"


def test_replaced_files_are_taken_up_once(files: tuple[Path, Path]) -> None:
    own = watched(files)
    put(files, "22")
    assert own.were_replaced()
    assert own.take_up(NOW)
    assert own.content == "22"
    assert not own.take_up(NOW)


def test_a_half_replaced_set_waits_for_the_other_half(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    own = watched(files)
    files[0].write_text("22")
    with caplog.at_level(logging.WARNING):
        assert not own.take_up(NOW)
    assert caplog.messages == ["do not fit together; the earlier certificate stays in use"]
    files[1].unlink()
    assert not own.take_up(NOW)
    assert own.content == "1"
    files[1].write_text("22")
    assert own.take_up(NOW)
    assert own.content == "22"


def test_files_that_do_not_fit_at_the_start_are_an_error(files: tuple[Path, Path]) -> None:
    files[1].write_text("22")
    with pytest.raises(IdentityError, match="do not fit together"):
        watched(files)
