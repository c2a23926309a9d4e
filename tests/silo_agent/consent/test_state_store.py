"""What an agent remembers after it was killed, and that two agents on one folder keep one promise."""

import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import InputError, ReleaseRefused
from crypto.names import Phase, ReleaseKind
from silo_agent.consent import state_store
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.ledger import Release, check_release
from silo_agent.consent.state_store import Decision, OfferedPlan, StateStore

ROSTER = ("a", "b", "c", "d")
FIRST = Release(b"1" * 32, ReleaseKind.VOTES, b"d" * 32, ROSTER, 3)
NEXT = replace(FIRST, round=b"2" * 32)
UNKNOWN = "this silo's words of round 3131313131313131 left, and nobody told it"

PLAN, OTHER = b"p" * 32, b"o" * 32
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
LATER = (NOW + timedelta(minutes=90)).astimezone(timezone(timedelta(hours=2)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agent.sqlite"


def test_the_folder_is_made_and_nobody_elses(file: Path) -> None:
    assert StateStore(file).releases() == []
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.clause("4.3")
def test_in_a_phase_of_a_round_one_thing_is_said(file: Path) -> None:
    for round_, phase in product((b"1" * 32, b"2" * 32), (Phase.PLAN, Phase.KEYS)):
        said = round_ + phase.encode()
        for _ in range(2):  # also by the next process
            StateStore(file).say(round_, phase, said)
            with pytest.raises(ReleaseRefused, match=f"said something else in phase {phase}"):
                StateStore(file).say(round_, phase, said + b"x")


@pytest.mark.clause("4.10")
def test_whoever_spoke_in_a_round_does_not_begin_it_again(file: Path) -> None:
    StateStore(file).begin(FIRST)
    StateStore(file).begin(FIRST)  # it has said nothing yet
    StateStore(file).say(FIRST.round, Phase.PLAN, b"acceptance")
    with pytest.raises(ReleaseRefused, match="already took part in round 3131313131313131"):
        StateStore(file).begin(FIRST)
    StateStore(file).begin(NEXT)  # nothing was sent


@pytest.mark.clause("14.4.1", "2.5.8")
def test_a_release_is_in_the_ledger_before_anything_is_computed_and_stays(file: Path) -> None:
    StateStore(file).begin(FIRST)
    assert StateStore(file).releases() == [FIRST]
    StateStore(file).begin(NEXT)
    StateStore(file).send(FIRST)
    assert StateStore(file).releases() == [replace(FIRST, sent=True), NEXT]


@pytest.mark.clause("2.5.8")
def test_a_round_begun_again_on_another_text_is_a_release_of_that_text(file: Path) -> None:
    """The first agent died before it spoke, or lives on beside the second one; then it sends nothing."""
    other = replace(FIRST, data=b"e" * 32)
    StateStore(file).begin(FIRST)
    StateStore(file).begin(other)
    with pytest.raises(ReleaseRefused, match="was taken out of the ledger"):
        StateStore(file).send(FIRST)
    StateStore(file).send(other)
    assert StateStore(file).releases() == [replace(other, sent=True)]


@pytest.mark.clause("2.5.8", "2.5.10")
def test_the_ledger_is_asked_again_when_words_leave(file: Path) -> None:
    store = StateStore(file)
    store.begin(FIRST)
    store.begin(NEXT)  # another agent on this folder
    store.send(FIRST)
    with pytest.raises(ReleaseRefused, match=UNKNOWN):
        StateStore(file).send(NEXT)
    with pytest.raises(ReleaseRefused, match=UNKNOWN):
        StateStore(file).begin(replace(NEXT, round=b"3" * 32))
    assert [release.sent for release in StateStore(file).releases()] == [True, False]
    store.confirm(FIRST, ROSTER[:3])
    StateStore(file).send(NEXT)


@pytest.mark.clause("2.5.9")
def test_confirmed_survivors_are_remembered(file: Path) -> None:
    store = StateStore(file)
    store.begin(FIRST)
    store.send(FIRST)
    store.confirm(FIRST, ROSTER[:3])
    assert StateStore(file).releases() == [replace(FIRST, sent=True, confirmed=ROSTER[:3])]
    with pytest.raises(ReleaseRefused, match="cannot be over the survivors of round 31313131"):
        StateStore(file).begin(replace(NEXT, silos=ROSTER[1:]))


def test_a_release_can_be_taken_out_by_hand_but_not_what_was_said(file: Path) -> None:
    store = StateStore(file)
    store.begin(FIRST)
    store.say(FIRST.round, Phase.PLAN, b"acceptance")
    store.send(FIRST)
    with pytest.raises(InputError, match=f"no release in round {NEXT.round.hex()}"):
        store.forget(NEXT.round)
    store.forget(FIRST.round)
    assert StateStore(file).releases() == []
    with pytest.raises(ReleaseRefused, match="was taken out of the ledger while it was going on"):
        store.send(FIRST)
    StateStore(file).begin(NEXT)
    with pytest.raises(ReleaseRefused, match="already took part"):
        StateStore(file).begin(FIRST)


@pytest.mark.clause("2.5.10")
def test_two_agents_that_share_a_folder_send_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = [replace(FIRST, round=bytes([number] * 32)) for number in range(8)]
    for release in begun:
        StateStore(file).begin(release)

    def slowly(*arguments: Any) -> None:
        check_release(*arguments)
        time.sleep(0.05)  # time enough for another one to look into the same ledger

    monkeypatch.setattr(state_store, "check_release", slowly)

    def is_sent(release: Release) -> bool:
        try:
            StateStore(file).send(release)
        except ReleaseRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(is_sent, begun)) == 1
    assert sum(release.sent for release in StateStore(file).releases()) == 1


VERSION_1 = """
CREATE TABLE said (round BLOB NOT NULL, phase TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (round, phase)) STRICT;
CREATE TABLE releases (
    round BLOB PRIMARY KEY, question BLOB NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL,
    roster TEXT NOT NULL, survivors TEXT NOT NULL, colluders INTEGER NOT NULL, block INTEGER
) STRICT;
CREATE TABLE offers (
    plan BLOB PRIMARY KEY, encoded BLOB NOT NULL, first_offered TEXT NOT NULL, last_offered TEXT NOT NULL,
    decision TEXT, by TEXT, reason TEXT, decided TEXT
) STRICT;
CREATE TABLE audit_head (only INTEGER PRIMARY KEY CHECK (only = 1), count INTEGER NOT NULL, last TEXT NOT NULL) STRICT;
INSERT INTO releases VALUES
    (CAST('11111111111111111111111111111111' AS BLOB), CAST('q' AS BLOB), 'votes',
     CAST('dddddddddddddddddddddddddddddddd' AS BLOB), 'a,b,c,d', 'a,b,c', 1, NULL),
    (CAST('22222222222222222222222222222222' AS BLOB), CAST('r' AS BLOB), 'evaluation',
     CAST('dddddddddddddddddddddddddddddddd' AS BLOB), 'a,b,c,d', '', 0, 3);
INSERT INTO said VALUES (CAST('11111111111111111111111111111111' AS BLOB), 'keys', CAST('said' AS BLOB));
INSERT INTO said VALUES (CAST('11111111111111111111111111111111' AS BLOB), 'opening', CAST('said' AS BLOB));
INSERT INTO audit_head VALUES (1, 7, 'hash');
PRAGMA user_version = 1;
"""
"""A store as version 1 left it: one release whose survivors this silo signed, and one that did not come to that."""


def write(file: Path, statements: str) -> None:
    file.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(file)) as database, database:
        database.executescript(statements)


@pytest.mark.clause("2.5.8", "2.5.9")
def test_a_ledger_of_version_1_still_counts(file: Path) -> None:
    """Whatever it has left in words; signed survivors are known, and where there are none nobody knows them."""
    write(file, VERSION_1)
    first = replace(FIRST, least_survivors=0, sent=True, confirmed=ROSTER[:3])
    second = replace(NEXT, kind="evaluation", least_survivors=0, block=3, sent=True)
    for _ in range(2):  # the second time nothing is left to change
        assert StateStore(file).releases() == [first, second]
    store = StateStore(file)
    with pytest.raises(ReleaseRefused, match="cannot be over the survivors of round 31313131"):
        store.begin(replace(FIRST, round=b"3" * 32, silos=ROSTER[1:]))
    with pytest.raises(ReleaseRefused, match="of round 3232323232323232 left, and nobody told it"):
        store.begin(replace(FIRST, round=b"3" * 32, kind="evaluation"))
    assert (store.audit_head(), store.privacy_head()) == ((7, "hash"), None)
    with pytest.raises(ReleaseRefused, match="already took part"):
        store.begin(FIRST)


@pytest.mark.clause("14.6.1")
def test_no_round_of_version_1_accuses_anybody(file: Path) -> None:
    """It did not record which rounds came to DONE."""
    write(file, VERSION_1)
    assert Accusations(file.parent).standing() == []
    StateStore(file).say(NEXT.round, Phase.OPENING, b"signature")
    assert Accusations(file.parent).standing() == [NEXT.round]


def test_a_store_from_before_there_were_versions_or_blocks_is_taken_as_it_is(file: Path) -> None:
    write(file, VERSION_1)
    write(file, "ALTER TABLE releases DROP COLUMN block; PRAGMA user_version = 0")
    assert [release.confirmed for release in StateStore(file).releases()] == [ROSTER[:3], ()]
    assert StateStore(file).audit_head() == (7, "hash")


def test_a_block_is_remembered(file: Path) -> None:
    """0 is a block too, and not all of them."""
    of_blocks = [replace(FIRST, round=bytes([n] * 32), block=block) for n, block in enumerate((None, 0, 1))]
    for release in of_blocks:
        StateStore(file).begin(release)
    assert StateStore(file).releases() == of_blocks


def test_what_a_killed_process_noted_is_there(file: Path) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from crypto.names import Phase
from silo_agent.consent.ledger import Release
from silo_agent.consent.state_store import StateStore
store = StateStore(Path({str(file)!r}))
release = Release(b"1" * 32, "votes", b"d" * 32, ("a", "b", "c", "d"), 3)
store.begin(release)
store.say(release.round, Phase.PLAN, b"acceptance")
store.send(release)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", killed], cwd=Path(__file__).parents[3], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert StateStore(file).releases() == [replace(FIRST, sent=True)]
    with pytest.raises(ReleaseRefused, match="already took part"):
        StateStore(file).begin(FIRST)


def test_a_file_that_is_no_store_is_named(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database " * 100)
    with pytest.raises(InputError, match=r"agent\.sqlite: file is not a database"):
        StateStore(file)


# Offered plans and what was decided on them.


def test_an_offered_plan_waits_for_a_decision(file: Path) -> None:
    assert StateStore(file).offer(PLAN, b"plan", NOW)
    assert not StateStore(file).offer(PLAN, b"plan", LATER)  # it still is
    assert StateStore(file).offer(OTHER, b"other", LATER)
    first = OfferedPlan(PLAN, b"plan", "2026-11-28T12:00:00+00:00", "2026-11-28T13:30:00+00:00", *[None] * 4)
    second = OfferedPlan(OTHER, b"other", "2026-11-28T13:30:00+00:00", "2026-11-28T13:30:00+00:00", *[None] * 4)
    assert StateStore(file).offers() == [first, second]
    assert StateStore(file).undecided(datetime.min.replace(tzinfo=UTC)) == 2
    assert StateStore(file).decision(PLAN) is StateStore(file).decision(b"never") is None


@pytest.mark.parametrize("decision", Decision)
def test_a_decision_is_final(decision: Decision, file: Path) -> None:
    [contrary] = {*Decision} - {decision}
    for plan in (PLAN, OTHER):
        StateStore(file).offer(plan, b"plan", NOW)
    StateStore(file).decide(PLAN, decision, "doe", NOW, "because")
    decided = ("doe", "because", "2026-11-28T12:00:00+00:00")
    for _ in range(2):
        assert StateStore(file).decision(PLAN) is decision
        assert StateStore(file).undecided(datetime.min.replace(tzinfo=UTC)) == 1
        found, other = StateStore(file).offers()
        assert (found.decision, found.by, found.reason, found.decided) == (decision, *decided)
        assert other.decision is None
        StateStore(file).decide(PLAN, decision, "roe", LATER)  # the same again
        with pytest.raises(InputError, match=f"plan {PLAN.hex()[:16]}: was {decision} by doe before"):
            StateStore(file).decide(PLAN, contrary, "roe", LATER)
        StateStore(file).offer(PLAN, b"plan", LATER)  # takes nothing back
    StateStore(file).decide(OTHER, contrary, "roe", LATER)
    assert [each.decision for each in StateStore(file).offers()] == [decision, contrary]


def test_what_was_never_offered_cannot_be_decided_on(file: Path) -> None:
    with pytest.raises(InputError, match="was never offered"):
        StateStore(file).decide(PLAN, Decision.APPROVED, "doe", NOW)
    assert StateStore(file).offers() == []


def test_of_contrary_decisions_at_once_one_counts(file: Path) -> None:
    StateStore(file).offer(PLAN, b"plan", NOW)

    def decided(number: int) -> Decision | None:
        decision = list(Decision)[number % 2]
        try:
            StateStore(file).decide(PLAN, decision, f"person {number}", NOW)
        except InputError:
            return None
        return decision

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(decided, range(8))) - {None}
    assert made == {StateStore(file).decision(PLAN)}


def test_the_audit_logs_head(file: Path) -> None:
    assert StateStore(file).audit_head() is None
    for head in ((1, "a" * 64), (2, "b" * 64)):
        StateStore(file).note_audit_head(*head)
        assert StateStore(file).audit_head() == head
        assert StateStore(file).privacy_head() is None


def test_the_privacy_ledgers_head(file: Path) -> None:
    assert StateStore(file).privacy_head() is None
    for head in ((1, "a" * 64), (2, "b" * 64)):
        StateStore(file).note_privacy_head(*head)
        assert StateStore(file).privacy_head() == head
        assert StateStore(file).audit_head() is None


def test_a_store_of_version_4_gets_a_place_for_the_privacy_ledgers_head(file: Path) -> None:
    store = StateStore(file)
    store.begin(FIRST)
    store.note_audit_head(7, "hash")
    write(file, "DROP TABLE privacy_head; DROP TABLE noise_seeds; PRAGMA user_version = 4")
    for _ in range(2):
        assert StateStore(file).releases() == [FIRST]
        assert (StateStore(file).audit_head(), StateStore(file).privacy_head()) == ((7, "hash"), None)
    StateStore(file).note_privacy_head(1, "other")


def test_a_state_of_a_later_version_is_refused(file: Path) -> None:
    StateStore(file)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(InputError, match=rf"{file}: has tables of version 7, .*a later version of sparsilo"):
        StateStore(file)
