"""Which silos withdrew from which rounds, carried from each to the others, who believe signatures only.

The file is beside the runs, and outlives them: an institution may come back long after a round that failed.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crypto.backends.withdrawal import enough
from crypto.errors import UnexpectedMessage
from crypto.primitives.signing import signature_bytes
from crypto.secagg.round import Round
from silo_agent.host.sqlite_file import bring_up_to_date, transaction

WITHDRAWALS_FILE: Final = "withdrawals.sqlite"

_ROUNDS: Final = """CREATE TABLE rounds (
    round BLOB PRIMARY KEY, plan TEXT NOT NULL, number INTEGER NOT NULL, silos TEXT NOT NULL, needed INTEGER NOT NULL,
    signature_bytes INTEGER NOT NULL, done INTEGER NOT NULL
) STRICT"""
_WITHDRAWALS: Final = """CREATE TABLE withdrawals (
    round BLOB NOT NULL, silo TEXT NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (round, silo)
) STRICT"""


def _first_tables(database: sqlite3.Connection) -> None:
    """Make the tables of version 1."""
    database.execute(_ROUNDS)
    database.execute(_WITHDRAWALS)


@dataclass(frozen=True)
class Unfinished:
    """A round that did not come to DONE, as a JSON document has it."""

    round: int
    """The round's number in its plan."""
    withdrawn: list[str]
    """The silos that withdrew from it, ascending."""
    needed: int
    """How many must, so that nobody can ever open it."""

    @property
    def may_be_open(self) -> bool:
        """Whether its sum may have been opened, or may yet be."""
        return len(self.withdrawn) < self.needed


class Withdrawals:
    """The rounds of an aggregator that may have released something, and who withdrew from them."""

    def __init__(self, state: Path) -> None:
        """Make the file in `state`, or bring it up to date. Raises InputError."""
        self._file = state / WITHDRAWALS_FILE
        bring_up_to_date(self._file, (_first_tables,))

    def begin(self, round_: Round) -> None:
        """Note that a round begins, or goes on."""
        plan, needed = round_.plan, enough(round_.plan, len(round_.silos))
        row = (round_.digest, plan.digest.hex(), round_.index, ",".join(round_.silos), needed)
        if needed is not None:
            with transaction(self._file) as database:
                change = "INSERT OR IGNORE INTO rounds VALUES (?, ?, ?, ?, ?, ?, 0)"
                database.execute(change, (*row, signature_bytes(plan.suite)))

    def done(self, round_: Round) -> None:
        """Note that a round came to DONE."""
        with transaction(self._file) as database:
            database.execute("UPDATE rounds SET done = 1 WHERE round = ?", (round_.digest,))

    def take(self, silo: str, round_digest: bytes, signature: bytes) -> list[tuple[str, bytes]]:
        """Keep a silo's withdrawal; return all of that round. Whether they verify, each silo sees for itself.

        Raises UnexpectedMessage where it is none of the silo's rounds here.
        """
        with transaction(self._file) as database:
            query = "SELECT silos, signature_bytes FROM rounds WHERE round = ?"
            silos, size = database.execute(query, (round_digest,)).fetchone() or ("", 0)
            if silo not in silos.split(",") or len(signature) != size:
                raise UnexpectedMessage("withdraws from a round that is not its own", party=silo)
            row = (round_digest, silo, signature)
            database.execute("INSERT OR REPLACE INTO withdrawals (round, silo, signature) VALUES (?, ?, ?)", row)
            query = "SELECT silo, signature FROM withdrawals WHERE round = ? ORDER BY silo"
            return [(name, bytes(signed)) for name, signed in database.execute(query, (round_digest,))]

    def unfinished(self, plan_digest: str) -> list[Unfinished]:
        """Return a plan's rounds that began and did not come to DONE."""
        with transaction(self._file) as database:
            query = "SELECT round, number, needed FROM rounds WHERE plan = ? AND done = 0 ORDER BY number"
            rounds = database.execute(query, (plan_digest,)).fetchall()
            query = "SELECT silo FROM withdrawals WHERE round = ? ORDER BY silo"
            return [
                Unfinished(number, [silo for (silo,) in database.execute(query, (round_,))], needed)
                for round_, number, needed in rounds
            ]
