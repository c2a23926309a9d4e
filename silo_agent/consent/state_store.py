"""What an agent must not forget when it is killed: what it said in every round, its release ledger, the plans that it
was offered with what was decided on them, and the heads of its audit log and its privacy ledger.

They lie in one SQLite file. Every method returns when its change is on disk. The file is opened for each change, so
that two agents that share a folder by mistake still keep one promise.
"""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Final

from crypto.errors import InputError, ReleaseRefused
from crypto.names import Phase
from crypto.primitives.keystream import SEED_BYTES
from crypto.secagg.session import Entropy
from silo_agent.consent.ledger import Release, check_release
from silo_agent.host.sqlite_file import bring_up_to_date, transaction

STATE_FILE: Final = "agent.sqlite"

_SAID = """CREATE TABLE IF NOT EXISTS said (
    round BLOB NOT NULL, phase TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (round, phase)
) STRICT"""
_RELEASES = """CREATE TABLE IF NOT EXISTS releases (
    round BLOB PRIMARY KEY, question BLOB NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL,
    roster TEXT NOT NULL, survivors TEXT NOT NULL, colluders INTEGER NOT NULL, block INTEGER
) STRICT"""
_LEDGER = """CREATE TABLE releases (
    round BLOB PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL, silos TEXT NOT NULL,
    least_survivors INTEGER NOT NULL, block INTEGER, sent INTEGER NOT NULL, confirmed TEXT NOT NULL,
    ratios TEXT NOT NULL
) STRICT"""
_OFFERS = """CREATE TABLE IF NOT EXISTS offers (
    plan BLOB PRIMARY KEY, encoded BLOB NOT NULL, first_offered TEXT NOT NULL, last_offered TEXT NOT NULL,
    decision TEXT, by TEXT, reason TEXT, decided TEXT
) STRICT"""
_AUDIT_HEAD = """CREATE TABLE IF NOT EXISTS audit_head (
    only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL, last TEXT NOT NULL
) STRICT"""
_PRIVACY_HEAD = """CREATE TABLE privacy_head (
    only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL, last TEXT NOT NULL
) STRICT"""
_CANDIDATES = """CREATE TABLE candidates (
    data BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (data, digest)
) STRICT"""


def _first_tables(database: sqlite3.Connection) -> None:
    """Make the tables of version 1, or of a file from before there were versions."""
    for table in (_SAID, _RELEASES, _OFFERS, _AUDIT_HEAD):
        database.execute(table)
    columns = {name for _, name, *_ in database.execute("PRAGMA table_info(releases)")}
    if "block" not in columns:  # a ledger from before there were rounds about a single block
        database.execute("ALTER TABLE releases ADD COLUMN block INTEGER")


def _known_survivors_and_settled_rounds(database: sqlite3.Connection) -> None:
    """Make the tables of version 2. Words had left of every release that version 1 has, and survivors were signed.

    Nobody is accused of its rounds: it did not record which of them came to DONE.
    """
    database.execute("ALTER TABLE releases RENAME TO released")
    database.execute(_LEDGER)
    database.execute(
        "INSERT INTO releases SELECT round, kind, data, roster, 0, block, 1, survivors, '' FROM released ORDER BY rowid"
    )
    database.execute("DROP TABLE released")
    database.execute("CREATE TABLE settled (round BLOB PRIMARY KEY) STRICT")
    database.execute("INSERT INTO settled SELECT DISTINCT round FROM said")


def _table_of_candidates(database: sqlite3.Connection) -> None:
    """Make the table of the keep masks from outside."""
    database.execute(_CANDIDATES)


def _withdrawn_rounds(database: sqlite3.Connection) -> None:
    """Let the ledger of version 4 know each round's plan, and whether so many silos withdrew that it never opens."""
    database.execute("ALTER TABLE releases ADD COLUMN plan BLOB NOT NULL DEFAULT x''")
    database.execute("ALTER TABLE releases ADD COLUMN withdrawn INTEGER NOT NULL DEFAULT 0")


def _head_of_the_privacy_ledger(database: sqlite3.Connection) -> None:
    """Make the table of version 5."""
    database.execute(_PRIVACY_HEAD)


def _seeds_of_noise(database: sqlite3.Connection) -> None:
    """Make the table of version 6: what the noise of a round under way follows from."""
    database.execute("CREATE TABLE noise_seeds (round BLOB PRIMARY KEY, seed BLOB NOT NULL) STRICT")


_STEPS: Final = (
    *(_first_tables, _known_survivors_and_settled_rounds, _table_of_candidates, _withdrawn_rounds),
    *(_head_of_the_privacy_ledger, _seeds_of_noise),
)


class Decision(StrEnum):
    """What this silo, a person or its policy, made of a plan."""

    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True)
class OfferedPlan:
    """A plan that the aggregator offered, and what was decided on it. Times are UTC, as ISO 8601."""

    digest: bytes
    """The plan's digest."""
    encoded: bytes
    """The plan in its canonical bytes."""
    first_offered: str
    last_offered: str
    decision: str | None
    """A Decision; None while nobody has decided."""
    by: str | None
    """Who decided."""
    reason: str | None
    """Why, where somebody gave a reason."""
    decided: str | None
    """When it was decided."""


class StateStore:
    """The state of one silo's agent."""

    def __init__(self, file: Path) -> None:
        """Make the file, or bring it up to date. Raises InputError where it cannot be opened or is too new."""
        self._file = file
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        bring_up_to_date(file, _STEPS)

    # What this silo says and releases

    def begin(self, wanted: Release) -> None:
        """Enter a release into the ledger before anything is computed for it (14.4.1).

        Raises ReleaseRefused where the ledger forbids it, or where this silo already spoke in the round: its keys are
        gone with the process that made them.
        """
        with transaction(self._file) as database:
            if database.execute("SELECT 1 FROM said WHERE round = ?", (wanted.round,)).fetchone():
                raise ReleaseRefused(
                    f"this silo already took part in round {wanted.round.hex()[:16]}",
                    hint="a round's keys live in memory only; after a restart it goes on without this silo",
                )
            check_release(wanted, _releases(database))
            database.execute(  # in place of what an agent began that died before it spoke: the text may be another now
                "INSERT OR REPLACE INTO releases (round, kind, data, silos, least_survivors, block, sent, confirmed, "
                "ratios, plan) VALUES (?, ?, ?, ?, ?, ?, 0, '', ?, ?)",
                (
                    *(wanted.round, wanted.kind, wanted.data, ",".join(wanted.silos)),
                    *(wanted.least_survivors, wanted.block, ",".join(wanted.ratios), wanted.plan),
                ),
            )

    def say(self, round_digest: bytes, phase: Phase, message: bytes) -> None:
        """Record a message of this silo before it is sent: in a phase of a round it says one thing (4.3).

        Raises ReleaseRefused where it said something else before.
        """
        with transaction(self._file) as database:
            row = (round_digest, phase, sha256(message).digest())
            database.execute("INSERT OR IGNORE INTO said (round, phase, digest) VALUES (?, ?, ?)", row)
            if not database.execute("SELECT 1 FROM said WHERE (round, phase, digest) = (?, ?, ?)", row).fetchone():
                raise ReleaseRefused(f"this silo said something else in phase {phase} of this round")

    def send(self, begun: Release) -> None:
        """Record, before it does, that the first masked word of a release leaves. Raises ReleaseRefused.

        The ledger is asked again: another agent on this folder may have sent something in the meantime, or a person
        may have taken the release out.
        """
        with transaction(self._file) as database:
            check_release(begun, _releases(database))
            change, row = "UPDATE releases SET sent = 1 WHERE (round, data) = (?, ?)", (begun.round, begun.data)
            if not database.execute(change, row).rowcount:
                raise ReleaseRefused(
                    f"round {begun.round.hex()[:16]} was taken out of the ledger while it was going on"
                )

    def confirm(self, begun: Release, survivors: tuple[str, ...]) -> None:
        """Record that a quorum signed a release's survivors, before this silo reveals anything that opens the sum."""
        with transaction(self._file) as database:
            database.execute("UPDATE releases SET confirmed = ? WHERE round = ?", (",".join(survivors), begun.round))

    def noise_seed(self, round_digest: bytes, entropy: Entropy) -> bytes:
        """Return the 32 bytes that a round's noise follows from: from `entropy`, or those that were drawn before.

        An agent that dies after it drew noise, and before anything left, draws no other noise for the same values. The
        seeds of other rounds go: an agent takes part in one at a time.
        """
        with transaction(self._file) as database:
            database.execute("DELETE FROM noise_seeds WHERE round != ?", (round_digest,))
            database.execute(
                "INSERT OR IGNORE INTO noise_seeds (round, seed) VALUES (?, ?)", (round_digest, entropy(SEED_BYTES))
            )
            [seed] = database.execute("SELECT seed FROM noise_seeds WHERE round = ?", (round_digest,)).fetchone()
            return bytes(seed)

    def forget_noise(self) -> None:
        """Forget the seed of a round that is over: with it whoever reads this file could take the noise off."""
        with transaction(self._file) as database:
            database.execute("DELETE FROM noise_seeds")

    def releases(self) -> list[Release]:
        """Return the ledger, oldest release first."""
        with transaction(self._file) as database:
            return _releases(database)

    def count_candidates(self, data: bytes, keep_masks: Collection[bytes]) -> None:
        """Record which keep masks from outside are run over a text, before they are; all by their SHA-256."""
        with transaction(self._file) as database:
            rows = [(data, digest) for digest in keep_masks]
            database.executemany("INSERT OR IGNORE INTO candidates (data, digest) VALUES (?, ?)", rows)

    def candidates(self, data: bytes) -> frozenset[bytes]:
        """Return the keep masks from outside that were ever run over a text."""
        with transaction(self._file) as database:
            query = "SELECT digest FROM candidates WHERE data = ?"
            return frozenset(digest for (digest,) in database.execute(query, (data,)))

    def forget(self, round_digest: bytes) -> None:
        """Take a release out of the ledger; its round is still one in which this silo has spoken.

        Raises InputError where the ledger has no release in this round.
        """
        with transaction(self._file) as database:
            if not database.execute("DELETE FROM releases WHERE round = ?", (round_digest,)).rowcount:
                raise InputError(f"{self._file}: has no release in round {round_digest.hex()}")

    # Plans that were offered

    def offer(self, digest: bytes, encoded: bytes, now: datetime) -> bool:
        """Record that the aggregator offers a plan; return whether it is a plan that it never offered before."""
        with transaction(self._file) as database:
            row = (digest, encoded, _iso(now), _iso(now))
            query = "INSERT OR IGNORE INTO offers (plan, encoded, first_offered, last_offered) VALUES (?, ?, ?, ?)"
            is_new = bool(database.execute(query, row).rowcount)
            database.execute("UPDATE offers SET last_offered = ? WHERE plan = ?", (_iso(now), digest))
            return is_new

    def decide(self, digest: bytes, decision: Decision, by: str, now: datetime, reason: str = "") -> None:
        """Record what was decided on a plan, once and for all; to record the same again changes nothing.

        Raises InputError where something else was decided before, or the plan was never offered.
        """
        with transaction(self._file) as database:
            change = (
                "UPDATE offers SET decision = ?, by = ?, reason = ?, decided = ? WHERE plan = ? AND decision IS NULL"
            )
            database.execute(change, (decision, by, reason, _iso(now), digest))
            row = database.execute("SELECT decision, by FROM offers WHERE plan = ?", (digest,)).fetchone()
            if row is None or row[0] != decision:
                earlier = f"was {row[0]} by {row[1]} before" if row else "was never offered"
                raise InputError(f"plan {digest.hex()[:16]}: {earlier}")

    def offers(self) -> list[OfferedPlan]:
        """Return every plan that was ever offered, oldest first."""
        query = (
            "SELECT plan, encoded, first_offered, last_offered, decision, by, reason, decided FROM offers "
            "ORDER BY rowid"
        )
        with transaction(self._file) as database:
            return [OfferedPlan(*row) for row in database.execute(query)]

    def decision(self, digest: bytes) -> Decision | None:
        """Return what was decided on a plan; None where nothing was."""
        with transaction(self._file) as database:
            row = database.execute("SELECT decision FROM offers WHERE plan = ?", (digest,)).fetchone()
            return Decision(row[0]) if row and row[0] else None

    def undecided(self, since: datetime) -> int:
        """Return how many plans wait for a decision and were still offered at `since` or later."""
        with transaction(self._file) as database:
            query = "SELECT COUNT(*) FROM offers WHERE decision IS NULL AND last_offered >= ?"
            [count] = database.execute(query, (_iso(since),)).fetchone()
            return int(count)

    # The heads of both logs

    def audit_head(self) -> tuple[int, str] | None:
        """Return number and SHA-256 (hex) of the audit log's last line; None before the first."""
        with transaction(self._file) as database:
            return _head(database, "SELECT count, last FROM audit_head")

    def note_audit_head(self, count: int, last: str) -> None:
        """Record number and SHA-256 (hex) of the audit log's last line, once the line is on disk."""
        with transaction(self._file) as database:
            database.execute("INSERT OR REPLACE INTO audit_head (only, count, last) VALUES (1, ?, ?)", (count, last))

    def privacy_head(self) -> tuple[int, str] | None:
        """Return number and SHA-256 (hex) of the privacy ledger's last line; None before the first."""
        with transaction(self._file) as database:
            return _head(database, "SELECT count, last FROM privacy_head")

    def note_privacy_head(self, count: int, last: str) -> None:
        """Record number and SHA-256 (hex) of the privacy ledger's last line, once the line is on disk."""
        with transaction(self._file) as database:
            database.execute("INSERT OR REPLACE INTO privacy_head (only, count, last) VALUES (1, ?, ?)", (count, last))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _head(database: sqlite3.Connection, query: str) -> tuple[int, str] | None:
    row = database.execute(query).fetchone()
    return (int(row[0]), str(row[1])) if row else None


def _releases(database: sqlite3.Connection) -> list[Release]:
    """Return the ledger, oldest release first. Names of silos have no comma, which separates them in a column."""
    query = (
        "SELECT round, kind, data, silos, least_survivors, block, sent, confirmed, ratios, plan, withdrawn "
        "FROM releases ORDER BY rowid"
    )
    return [
        Release(
            *(round_, kind, data, tuple(silos.split(","))),
            *(least_survivors, block, bool(sent), tuple(filter(None, confirmed.split(",")))),
            *(tuple(filter(None, ratios.split(","))), plan, bool(withdrawn)),
        )
        for round_, kind, data, silos, least_survivors, block, sent, confirmed, ratios, plan, withdrawn in (
            database.execute(query)
        )
    ]
