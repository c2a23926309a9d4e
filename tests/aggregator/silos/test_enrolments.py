"""An invitation is good for one enrolment, whoever has it and however often it is tried."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.silos.enrolments import ENROLMENTS_FILE, Enrolled, Enrolments
from crypto.errors import IdentityError, InputError
from silo_agent.host.sqlite_file import transaction

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY, OTHER = b"k" * 32, b"o" * 32
ENROLLED = Enrolled("a", KEY, b"tls " + KEY, NOW, None)


@pytest.fixture
def enrolments(tmp_path: Path) -> Enrolments:
    made = Enrolments(tmp_path / "state")
    made.invite("a", 7)
    return made


def enroll(enrolments: Enrolments, silo: str = "a", serial: int = 7, key: bytes = KEY, request: bytes = b"r") -> bytes:
    return enrolments.enroll(
        Enrolled(silo, key, b"tls " + key, NOW, None), serial, request, b"certificate of " + request
    )


def test_an_enrolled_silo_is_in_the_roster_for_every_process(enrolments: Enrolments, tmp_path: Path) -> None:
    assert enrolments.roster() == {}
    assert enroll(enrolments) == b"certificate of r"
    again = Enrolments(tmp_path / "state")
    assert again.roster() == {"a": KEY}
    assert again.silos() == [ENROLLED]


def test_a_lost_answer_is_given_again_and_no_other(enrolments: Enrolments) -> None:
    enroll(enrolments)
    assert enrolments.enroll(ENROLLED, 7, b"r", b"made anew") == b"certificate of r"
    for changed in ({"request": b"another"}, {"key": OTHER, "request": b"another"}):
        with pytest.raises(IdentityError, match="was used before"):
            enroll(enrolments, **changed)  # type: ignore[arg-type]
    assert enrolments.roster() == {"a": KEY}


@pytest.mark.parametrize(("silo", "serial"), [("a", 8), ("b", 7)])
def test_an_invitation_that_was_not_given_out(silo: str, serial: int, enrolments: Enrolments) -> None:
    with pytest.raises(IdentityError, match="did not give out"):
        enroll(enrolments, silo, serial)
    assert enrolments.roster() == {}


def test_a_second_invitation_voids_the_first_and_neither_replaces_a_key(enrolments: Enrolments) -> None:
    enrolments.invite("a", 8)
    with pytest.raises(IdentityError, match="did not give out"):
        enroll(enrolments, serial=7)
    enroll(enrolments, serial=8)
    with pytest.raises(InputError, match="a is enrolled"):
        enrolments.invite("a", 9)


def test_two_silos_do_not_share_a_key(enrolments: Enrolments) -> None:
    enroll(enrolments)
    enrolments.invite("b", 9)
    with pytest.raises(IdentityError, match="was enrolled before"):
        enroll(enrolments, "b", 9)
    assert enrolments.roster() == {"a": KEY}


def test_a_revoked_silo_is_out_until_it_enrols_with_new_keys(enrolments: Enrolments) -> None:
    enroll(enrolments)
    enrolments.revoke("a", NOW + timedelta(hours=1))
    assert enrolments.roster() == {}
    assert enrolments.silos()[0].revoked == NOW + timedelta(hours=1)
    with pytest.raises(InputError, match="revoked before"):
        enrolments.revoke("a", NOW)
    enrolments.invite("a", 10)
    enroll(enrolments, serial=10, key=OTHER)
    assert enrolments.roster() == {"a": OTHER}


def test_nobody_revokes_a_silo_that_is_not_there(enrolments: Enrolments) -> None:
    with pytest.raises(InputError, match="not enrolled"):
        enrolments.revoke("a", NOW)


def test_signatures_are_kept_by_roster(enrolments: Enrolments) -> None:
    enrolments.sign_roster(b"f", "a", b"1")
    enrolments.sign_roster(b"f", "a", b"2")
    enrolments.sign_roster(b"g", "b", b"3")
    assert (enrolments.signatures(b"f"), enrolments.signatures(b"g"), enrolments.signatures(b"h")) == (
        {"a": b"2"},
        {"b": b"3"},
        {},
    )


@pytest.mark.parametrize("same", ["signing_key", "certificate_key"])
def test_a_revoked_silo_does_not_come_back_with_a_key_that_it_had(same: str, enrolments: Enrolments) -> None:
    enroll(enrolments)
    enrolments.revoke("a", NOW)
    enrolments.invite("a", 10)
    fresh = Enrolled("a", OTHER, b"tls " + OTHER, NOW, None)
    with pytest.raises(IdentityError, match="was enrolled before"):
        enrolments.enroll(replace(fresh, **{same: getattr(ENROLLED, same)}), 10, b"s", b"c")
    assert enrolments.roster() == {}
    enrolments.enroll(fresh, 10, b"s", b"c")
    assert enrolments.silos() == [fresh]


def test_an_announced_key_is_that_enrolments_and_no_later_ones(enrolments: Enrolments) -> None:
    enroll(enrolments)
    enrolments.announce(ENROLLED, b"next")
    assert enrolments.silos() == [replace(ENROLLED, certificate_key=b"next")]
    enrolments.revoke("a", NOW)
    enrolments.announce(ENROLLED, b"late")
    assert enrolments.silos() == [replace(ENROLLED, certificate_key=b"next", revoked=NOW)]
    enrolments.invite("a", 10)
    enroll(enrolments, serial=10, key=OTHER)
    enrolments.announce(ENROLLED, b"late")
    assert enrolments.silos()[0].certificate_key == b"tls " + OTHER


@pytest.mark.parametrize("version", [0, 1])
def test_a_file_from_before_certificate_keys_is_taken_up(version: int, enrolments: Enrolments, tmp_path: Path) -> None:
    enroll(enrolments)
    with transaction(tmp_path / "state" / ENROLMENTS_FILE) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        database.execute("ALTER TABLE silos DROP COLUMN certificate_key")
        database.execute(f"PRAGMA user_version = {version}")
    taken = Enrolments(tmp_path / "state")
    assert taken.silos() == [replace(ENROLLED, certificate_key=None)]  # which certificate it calls with, nobody knows
    taken.announce(ENROLLED, b"next")
    assert taken.silos() == [replace(ENROLLED, certificate_key=b"next")]
