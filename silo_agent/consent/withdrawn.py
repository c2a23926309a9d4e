"""The rounds from which this silo withdrew: it reveals no share there, now or later (docs/protocol.md, 2.5.14).

That is what it says in the round's UNMASK, and a silo says one thing in a phase: whoever revealed shares cannot
withdraw, and whoever withdrew cannot reveal any, also after a restart.
"""

from hashlib import sha256
from pathlib import Path
from typing import Final

from crypto.names import Phase
from silo_agent.consent.ledger import Release
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.host.sqlite_file import transaction

NOTHING_REVEALED: Final = b"nothing revealed"
"""What is recorded as said in UNMASK; no message is like it."""


class Withdrawn:
    """The withdrawals of one silo, in its state folder."""

    def __init__(self, state: Path) -> None:
        """Open the state store in `state`. Raises InputError."""
        self._file = state / STATE_FILE
        self._store = StateStore(self._file)

    def withdraw(self, round_digest: bytes) -> None:
        """Record that this silo withdraws from a round. Raises ReleaseRefused where it has revealed shares."""
        self._store.say(round_digest, Phase.UNMASK, NOTHING_REVEALED)

    def unsettled(self) -> list[Release]:
        """Return the releases, oldest first, of rounds that may be open, and in which this silo revealed no share.

        Those from before the ledger had plans are not among them.
        """
        with transaction(self._file) as database:
            query, row = (
                "SELECT round FROM said WHERE phase = ? AND digest != ?",
                (Phase.UNMASK, sha256(NOTHING_REVEALED).digest()),
            )
            revealed = {bytes(round_) for (round_,) in database.execute(query, row)}
        return [
            release
            for release in self._store.releases()
            if release.plan and not release.withdrawn and release.round not in revealed
        ]

    def settle(self, round_digest: bytes) -> None:
        """Record that so many silos withdrew from a round that nobody can ever open its sum (2.5.15)."""
        with transaction(self._file) as database:
            database.execute("UPDATE releases SET withdrawn = 1 WHERE round = ?", (round_digest,))

    def plan(self, release: Release) -> bytes | None:
        """Return the plan of a release in its canonical bytes; None where it is not kept any more."""
        with transaction(self._file) as database:
            row = database.execute("SELECT encoded FROM offers WHERE plan = ?", (release.plan,)).fetchone()
            return bytes(row[0]) if row else None
