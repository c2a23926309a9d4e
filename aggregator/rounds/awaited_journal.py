"""A round's journal that nobody but its caller waits for: a lock on its file stops no other call."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from aggregator.rounds.journal import Event, Journal, OpenJournal

T = TypeVar("T")


class AwaitedJournal:
    """A Journal's methods, carried out in threads, one after another in the order in which they were called.

    They are also carried out where whoever called is cancelled. They raise OSError.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._turn = asyncio.Lock()  # which goes to whoever asked for it first
        self._failure: OSError | None = None

    @classmethod
    async def open(cls, open_journal: OpenJournal, folder: Path, round_digest: bytes) -> "AwaitedJournal":
        """Open the journal of a round, as OpenJournal says."""
        return cls(await asyncio.to_thread(open_journal, folder, round_digest))

    def note(self, kind: str, silo: str, data: bytes) -> Awaitable[None]:
        """Add an event, which is on disk when what this returns is done; behind one that could not be added, none."""
        return self._in_turn(partial(self._note, kind, silo, data))

    def events(self) -> Awaitable[list[Event]]:
        """Return what was noted before, in order."""
        return self._in_turn(self._journal.events)

    def close(self, *, is_over: bool = False) -> Awaitable[None]:
        """Note nothing any more. Of a round that is over nothing stays."""
        return self._in_turn(partial(self._journal.close, is_over=is_over))

    def _in_turn(self, call: Callable[[], T]) -> Awaitable[T]:
        return asyncio.shield(asyncio.create_task(self._carried_out(call)))

    def _note(self, kind: str, silo: str, data: bytes) -> None:
        if self._failure:
            raise self._failure
        try:
            self._journal.note(kind, silo, data)
        except OSError as error:
            self._failure = error
            raise

    async def _carried_out(self, call: Callable[[], T]) -> T:
        async with self._turn:
            return await asyncio.to_thread(call)
