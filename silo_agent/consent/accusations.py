"""Accusations of the aggregator: rounds of which this silo signed an opening, and that did not come to DONE (14.6).

Whoever forges a sum sees from the coins who will recompute what, and can end the round where an honest auditor would.
So a round that ends there counts, whoever ended it and however it looked: a message, silence, or this agent's own end.
"""

from pathlib import Path

from crypto.errors import InputError
from crypto.names import Phase
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.host.sqlite_file import transaction


class Accusations:
    """The accusations of one silo, which follow from what its state folder says of each round."""

    def __init__(self, state: Path) -> None:
        """Open the state store in `state`. Raises InputError."""
        self._state, self._file = state, state / STATE_FILE
        StateStore(self._file)

    def standing(self) -> list[bytes]:
        """Return the digests of the rounds, oldest first. One that is under way is among them for its last phases."""
        query = (
            "SELECT round FROM said WHERE phase = ? AND round NOT IN (SELECT round FROM settled) ORDER BY said.rowid"
        )
        with transaction(self._file) as database:
            return [bytes(round_) for (round_,) in database.execute(query, (Phase.OPENING,))]

    def settle(self, round_digest: bytes) -> None:
        """Record that a round came to DONE, as this silo saw or a transcript proves: nobody is accused of it."""
        with transaction(self._file) as database:
            database.execute("INSERT OR IGNORE INTO settled (round) VALUES (?)", (round_digest,))

    def dismiss(self, round_digest: bytes) -> None:
        """Take back the accusation of a round. Raises InputError where there is none."""
        if round_digest not in self.standing():
            raise InputError(f"{self._file}: accuses nobody of round {round_digest.hex()}")
        self.settle(round_digest)

    def evidence(self, round_digest: bytes) -> Path:
        """Return where an agent keeps the signed messages that it had of such a round when the round ended."""
        return self._state / f"{round_digest.hex()}.accusation"
