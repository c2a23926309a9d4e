"""Certificate files that people or tools replace while a process runs: the new ones are taken up without a restart."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from crypto.errors import IdentityError

_Content = TypeVar("_Content")

_log = logging.getLogger(__name__)


class WatchedFiles(Generic[_Content]):
    """What some files that belong together hold, such as a certificate and its key, as they were when they last fitted.

    `read` gives their content as of a moment and raises IdentityError where they do not fit together.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[datetime], _Content], now: datetime) -> None:
        """Read the files. Raises IdentityError."""
        self._files, self._read = files, read
        self._seen = self._stamps()
        self.content = read(now)

    def were_replaced(self) -> bool:
        """Return whether a file is another one, or was written to, since the content was read."""
        return self._stamps() != self._seen

    def take_up(self, now: datetime) -> bool:
        """Read files that were replaced; return whether `content` is new.

        Files that do not fit together are perhaps half replaced: a warning is logged, the earlier content stays in
        use, and the next call tries again.
        """
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        try:
            self.content = self._read(now)
        except IdentityError as error:
            _log.warning("%s; the earlier certificate stays in use", error)
            return False
        self._seen = stamps
        return True

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        """Return modification time and inode of each file; nothing where one is missing, as while it is replaced."""
        try:
            return tuple((status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in self._files))
        except OSError:
            return ()
