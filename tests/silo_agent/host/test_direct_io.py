"""Direct I/O against plain reads and writes of the same bytes: every alignment, short writes, a full disk."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Barrier

import pytest

from silo_agent.host.direct_io import DirectAppender, open_direct, read_direct

LENGTHS = [0, 1, 8, 4088, 4095, 4096, 4097, 8192, 12_289, 50_000]
"""Bytes: about one block, two and several."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "words").touch()
    return tmp_path / "words"


def pieces(seed: int) -> list[bytes]:
    random = Random(seed)
    return [random.randbytes(random.choice(LENGTHS)) for _ in range(random.randrange(12))]


@pytest.mark.parametrize("behind", [0, 100_000])
@pytest.mark.parametrize("before", LENGTHS)
@pytest.mark.parametrize("seed", range(5))
def test_a_file_is_what_it_was_and_what_was_appended(seed: int, before: int, behind: int, file: Path) -> None:
    """And what was behind it where nothing was written over it."""
    kept, appended = Random(before).randbytes(before), b"".join(pieces(seed))
    file.write_bytes(kept + bytes(behind))
    words = DirectAppender(file, before)
    for piece in pieces(seed):
        words.append(piece)
    words.sync()
    expected = kept + appended
    assert file.read_bytes() == expected + bytes(max(0, before + behind - len(expected)))
    words.append(b"more")
    words.sync()
    words.sync()
    assert file.read_bytes()[: len(expected) + 4] == expected + b"more"


def test_less_than_a_block_is_in_memory_until_it_is_synced(file: Path) -> None:
    words = DirectAppender(file, 0)
    words.append(bytes(9000))
    assert file.stat().st_size == 8192
    words.sync()
    assert file.stat().st_size == 9000


def test_what_the_kernel_writes_in_parts_is_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, start: pwrite(descriptor, data[:4096], start))
    data = Random(1).randbytes(50_000)
    words = DirectAppender(file, 0)
    words.append(data)
    words.sync()
    assert file.read_bytes() == data


@pytest.mark.parametrize("before", [0, 1000])
def test_on_a_full_disk_nothing_is_appended_and_later_everything(
    before: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, room = os.pwrite, 2

    def until_full(descriptor: int, data: memoryview, start: int) -> int:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data[:4096], start)

    first, second = Random(2).randbytes(before), Random(3).randbytes(30_000)
    words = DirectAppender(file, 0)
    words.append(first)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", until_full)
        with pytest.raises(OSError, match="No space"):
            words.append(second)
    words.append(second)
    words.sync()
    assert file.read_bytes() == first + second


@pytest.mark.parametrize("size", LENGTHS)
@pytest.mark.parametrize("start", LENGTHS)
def test_any_range_of_a_file_and_no_more_than_there_is(start: int, size: int, file: Path) -> None:
    data = Random(4).randbytes(20_001)
    file.write_bytes(data)
    with open_direct(file, os.O_RDONLY) as descriptor:
        assert bytes(read_direct(descriptor, size, start)) == data[start : start + size]


def test_threads_do_not_read_into_each_others_memory(file: Path) -> None:
    file.write_bytes(b"a" * 4096 + b"b" * 4096)
    both = Barrier(2)

    def read(start: int) -> bytes:
        with open_direct(file, os.O_RDONLY) as descriptor:
            found = read_direct(descriptor, 4096, start)
            both.wait(60)
            return bytes(found)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read, [0, 4096])) == [b"a" * 4096, b"b" * 4096]


def opening(refused: int, seen: list[int]) -> Callable[..., int]:
    def opens(file: Path, flags: int) -> int:
        seen.append(flags)
        if flags & os.O_DIRECT:
            raise OSError(refused, os.strerror(refused))
        return os_open(file, flags)

    os_open = os.open
    return opens


def test_a_file_system_without_direct_io_is_used_as_usual(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(os, "open", opening(errno.EINVAL, seen))
    data = Random(5).randbytes(20_000)
    words = DirectAppender(file, 0)
    words.append(data)
    words.sync()
    with open_direct(file, os.O_RDONLY) as descriptor:
        assert bytes(read_direct(descriptor, 20_000, 0)) == data
    assert seen == [os.O_WRONLY | os.O_DIRECT, os.O_WRONLY, os.O_RDONLY | os.O_DIRECT, os.O_RDONLY]


def test_what_else_is_wrong_with_a_file_is_raised(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(os, "open", opening(errno.EACCES, seen))
    with pytest.raises(PermissionError), open_direct(file, os.O_RDONLY):
        pass
    assert seen == [os.O_RDONLY | os.O_DIRECT]
