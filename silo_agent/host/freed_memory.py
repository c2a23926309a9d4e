"""What a process does with memory that was freed: it keeps some, since a chunk's buffers come and go."""

from ctypes import CDLL
from typing import Final

_KEPT: Final = 32 << 20
"""Bytes that each of two arenas keeps."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def keep_freed_memory() -> None:
    """Set malloc's limits once, when a process begins, where malloc is glibc's (mallopt(3)).

    By default it keeps twice the largest buffer freed so far. A chunk passes through more buffers than two, which would
    begin on fresh pages each time, and those cost more than what is done with them. In return all threads share two
    arenas: what each keeps adds up.
    """
    libc = CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def return_freed_memory() -> None:
    """Have malloc give back what is free, where it is glibc's: what blocks leave between their buffers adds up."""
    libc = CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
