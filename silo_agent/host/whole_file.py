"""Files and folders that appear whole or not at all: a crash or a full disk leaves the old content or the new.

What is written waits under a hidden name beside its place, goes to the disk itself, and is then renamed; the folder
follows, as a rename is otherwise free to be forgotten (fsync(2), rename(2)).
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedRandom
from pathlib import Path
from secrets import token_hex
from typing import Final

from crypto.errors import OutputError

SECRET: Final = 0o600
"""Mode of a file that nobody but its owner may read."""


@contextmanager
def whole_file(path: Path, *, mode: int = 0o666, replace: bool = True) -> Iterator[BufferedRandom]:
    """Yield a file to write (and read again); it becomes `path` if the `with` block ends without an error.

    `mode` is what the umask leaves of it. Raises OSError, and without `replace` FileExistsError where `path` exists by
    then: `path` is in either case as it was.
    """
    part = path.with_name(f".{path.name}.{token_hex(4)}.part")
    try:
        with open(part, "x+b", opener=partial(os.open, mode=mode)) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        if replace:
            part.replace(path)
        else:
            path.hardlink_to(part)  # unlike a rename it refuses a name that is taken
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, mode: int = 0o666, replace: bool = True) -> None:
    """Write `content` as `whole_file` does."""
    with whole_file(path, mode=mode, replace=replace) as out:
        out.write(content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to put files in; it becomes `path` if the `with` block ends without an error.

    Raises OutputError where `path` is not empty (found before the block begins) or cannot be written.
    """
    path = path.absolute()
    try:
        if path.exists() and any(path.iterdir()):
            raise OutputError(f"{path}: exists and is not empty", hint="name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        # a sibling, so that the rename stays inside one file system
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            folder = Path(scratch, path.name)  # the temporary folder itself is closed to other users
            folder.mkdir()
            yield folder
            for written in (*folder.iterdir(), folder):
                sync(written)
            folder.replace(path)
            sync(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}", hint="check space and permissions") from error


def sync(path: Path) -> None:
    """Return when what is written of a file, or the names in a folder, are on the disk itself. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
