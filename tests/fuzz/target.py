"""A target of fuzzing: a decoder of bytes that somebody else made. It answers at once, or says in one error why not."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Final

from google.protobuf.message import DecodeError, Message

from crypto.encoding.wire import encode
from crypto.errors import SparsiloError

MOST_SECONDS: Final = 1.0
"""CPU time that an input may take. The longest inputs here have MOST_BYTES."""
MOST_BYTES: Final = 1 << 14


@dataclass(frozen=True)
class Target:
    decode: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    """Inputs that are as they should be."""
    mutants: int = 1000
    """How many altered inputs the test without coverage tries."""


def check(target: Target, data: bytes) -> None:
    """Fails for whatever is not an answer, or an error of the typed tree, within the time."""
    start = process_time()
    try:
        target.decode(data)
    except SparsiloError as error:
        assert "\n" not in str(error)
    seconds = process_time() - start
    assert seconds < MOST_SECONDS, f"{seconds:.2f} seconds of CPU time"


def canonical(kind: type[Message], data: bytes) -> bytes:
    """The canonical bytes of what `data` may say: fuzzing seldom comes by them, and everything else is refused."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return data
    message.DiscardUnknownFields()
    return encode(message)


_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder in it has a name that nobody can foresee
_folder = tempfile.TemporaryDirectory(prefix="sparsilo-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None)


def folder() -> Path:
    """A folder in memory, of this process."""
    return Path(_folder.name)


def written(name: str, data: bytes) -> Path:
    """A file of that content, and nobody else's."""
    file = folder() / name
    file.touch(0o600)
    file.write_bytes(data)
    return file
