"""One process a state folder: two would each keep half of its promises."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crypto.errors import InputError

LOCK_FILE: Final = "lock"


class FolderTaken(InputError):
    """Another process works on the folder."""


@contextmanager
def owned_folder(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it for this process alone until the block, or the process, ends.

    Raises FolderTaken where another process holds it, and OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as file:  # which stays: who removes it may remove another's
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(
                f"{folder}: another process works on this state folder",
                hint="end that one first, or give this one a `state` of its own",
            ) from None
        yield
