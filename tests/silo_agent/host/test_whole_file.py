"""Files that appear whole or not at all: replaced, refused, interrupted, killed, and on a disk that is full."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread

import pytest

from crypto.errors import OutputError
from silo_agent.host import whole_file as module
from silo_agent.host.whole_file import SECRET, whole_file, whole_folder, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from silo_agent.host.whole_file import whole_file, whole_folder

kind, place = sys.argv[1], Path(sys.argv[2])
if kind == "file":
    with whole_file(place) as out:
        out.write(b"new")
        out.flush()
        os.kill(os.getpid(), signal.SIGKILL)
with whole_folder(place) as folder:
    (folder / "file").write_bytes(b"new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1000 bytes: what is beyond is refused as on a full disk, by an OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with whole_file(path) as out:
        out.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_what_was_written_can_be_read_before_it_appears(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as out:
        out.write(b"new")
        out.seek(0)
        assert out.read() == b"new"
        Path(out.name).write_bytes(b"newer")  # by its name, too
    assert (tmp_path / "file").read_bytes() == b"newer"


def test_on_an_error_the_old_content_stays(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(ValueError, match="interrupted"), whole_file(tmp_path / "file") as out:
        out.write(b"new")
        raise ValueError("interrupted")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old", replace=False)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "file", b"new", replace=False)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_of_two_that_write_at_once_one_is_refused(tmp_path: Path) -> None:
    both, refused = Barrier(2), []

    def write(content: bytes) -> None:
        try:
            with whole_file(tmp_path / "file", replace=False) as out:
                out.write(content)
                both.wait(10)  # neither was there when the other began
        except FileExistsError:
            refused.append(content)

    threads = [Thread(target=write, args=(content,)) for content in (b"a" * 9, b"b" * 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert {(tmp_path / "file").read_bytes(), *refused} == {b"a" * 9, b"b" * 9}
    assert names(tmp_path) == ["file"]


def test_the_mode_is_that_of_a_secret_from_the_beginning(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        with whole_file(tmp_path / "secret", mode=SECRET) as out:
            assert os.fstat(out.fileno()).st_mode & 0o777 == 0o600
        write_whole(tmp_path / "plain", b"")
    finally:
        os.umask(umask)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("secret", "plain")] == [0o600, 0o644]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_process_that_is_killed_before_the_rename_changes_nothing(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_bytes(b"old")
    ended = subprocess.run([sys.executable, "-c", KILLED, kind, place], check=False, cwd=Path(__file__).parents[3])
    assert ended.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith(".")] == ["place"] * (kind == "file")
    if kind == "file":
        assert place.read_bytes() == b"old"
        write_whole(place, b"new")  # what the killed process left is in nobody's way
        assert place.read_bytes() == b"new"


def test_on_a_full_disk_the_old_content_stays(tmp_path: Path, full_disk: None) -> None:
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "file", bytes(1001))
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(OutputError, match="cannot be written"), whole_folder(tmp_path / "folder") as folder:
        (folder / "file").write_bytes(bytes(1001))
    assert names(tmp_path) == ["file"]


def test_bytes_and_name_are_on_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name[:5]}")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        events.append("replace")
        return replace(path, target)

    monkeypatch.setattr(module.os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    (tmp_path / "state").mkdir()
    write_whole(tmp_path / "state" / "file", b"new")
    assert events == ["fsync .file", "replace", "fsync state"]
    events.clear()
    with whole_folder(tmp_path / "state" / "model") as folder:
        (folder / "part").write_bytes(b"new")
    assert events == ["fsync part", "fsync model", "replace", "fsync state"]


def test_a_folder_with_something_in_it_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_bytes(b"x")
    with pytest.raises(OutputError, match="full: exists and is not empty"), whole_folder(tmp_path / "full"):
        raise AssertionError("the work began")
    assert names(tmp_path / "full") == ["precious"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with whole_folder(tmp_path / "model") as folder:
        (folder / "part").write_bytes(b"new")
    assert names(tmp_path / "model") == ["part"]
    assert names(tmp_path) == ["model"]
