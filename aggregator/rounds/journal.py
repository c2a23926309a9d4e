"""What an aggregator must not forget when it is killed: what silos said, and which phases it closed.

A session is a pure function of those, so a restarted aggregator feeds them to a new one and stands where it stood, with
the same answers. Where a journal lies is up to the deployment: `sqlite_journal` or `postgres_journal`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

SPOKE, UPLOADED, CLOSED = "spoke", "uploaded", "closed"
"""What happened, and its data: a silo spoke (its message), a silo's upload is whole (its Merkle root), a phase closed
(nothing).
"""

Event = tuple[str, str, bytes]
"""What happened, to which silo (none where a phase closed), and its data."""


class Journal(Protocol):
    """A journal holds the events of one round, in order. Its methods raise OSError."""

    def note(self, kind: str, silo: str, data: bytes) -> None:
        """Add an event, which is on disk when this returns."""

    def events(self) -> list[Event]:
        """Return what was noted before, in order."""

    def close(self, *, is_over: bool = False) -> None:
        """Note nothing any more. Of a round that is over nothing stays."""


OpenJournal = Callable[[Path, bytes], Journal]
"""Opens the journal of a round by its folder and digest, or begins it. Raises OSError, and InputError where what is
there is another round's or a later version's: it is then as it was.
"""
