"""Direct I/O (O_DIRECT of open(2)): long files that are written once and read once, past the page cache.

A model's uploads are longer than memory. Through the page cache each of their pages is fresh, and the kernel spends
more time on finding and clearing it than on the copy; the longer the files, the more (docs/adr/0018-direct-io.md).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from threading import local
from typing import Final

_BLOCK: Final = 4096
"""Bytes. Direct I/O begins and ends at its multiples, in memory as on disk; every disk's sectors divide it."""


class _Thread(local):
    """A buffer for each thread, which is kept: fresh pages cost more than what goes through them."""

    def __init__(self) -> None:
        self.buffer = mmap(-1, _BLOCK)


_thread = _Thread()


class DirectAppender:
    """Appends to a file from byte `size` on, over whatever is behind it. Its methods raise OSError."""

    def __init__(self, file: Path, size: int) -> None:
        self._file = file
        self._blocks = size // _BLOCK * _BLOCK
        with file.open("rb") as opened:
            opened.seek(self._blocks)
            self._rest = opened.read(size - self._blocks)  # of a block that is not full

    def append(self, data: bytes | memoryview) -> None:
        """Append `data`, of which up to a block stays in memory. Where it raises, nothing was appended."""
        rest = len(self._rest)
        whole = (rest + len(data)) // _BLOCK * _BLOCK
        if not whole:
            self._rest += data
            return
        aligned = _aligned(whole)
        aligned[:rest], aligned[rest:] = self._rest, memoryview(data)[: whole - rest]
        with open_direct(self._file, os.O_WRONLY) as descriptor:
            written = 0
            while written < whole:
                written += os.pwrite(descriptor, aligned[written:], self._blocks + written)
        self._blocks += whole
        self._rest = bytes(data[whole - rest :])

    def sync(self) -> None:
        """Return when all that was appended is on the disk."""
        with self._file.open("r+b") as out:
            out.seek(self._blocks)
            out.write(self._rest)
            out.flush()
            os.fsync(out.fileno())


@contextmanager
def open_direct(file: Path, flags: int) -> Iterator[int]:
    """Yield the descriptor of a file opened for direct I/O, or as usual where the file system has none."""
    try:
        descriptor = os.open(file, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(file, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_direct(descriptor: int, size: int, start: int) -> memoryview:
    """Return bytes `start` to `start + size`, fewer where the file ends; valid until this thread's next direct I/O."""
    first = start // _BLOCK * _BLOCK
    last = -(-(start + size) // _BLOCK) * _BLOCK
    aligned = _aligned(last - first)
    read = os.preadv(descriptor, [aligned], first)
    return aligned[start - first : min(read, start - first + size)]


def _aligned(size: int) -> memoryview:
    """Return the first `size` bytes of this thread's buffer, which begins on a page."""
    if len(_thread.buffer) < size:
        _thread.buffer = mmap(-1, size)
    return memoryview(_thread.buffer)[:size]
