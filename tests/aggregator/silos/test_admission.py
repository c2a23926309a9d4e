"""Who is heard, by certificate and moment."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.silos import admission
from aggregator.silos.admission import NotAdmitted, checked, enrolled, known
from aggregator.silos.enrolments import ENROLMENTS_FILE, Enrolled, Enrolments
from crypto.errors import InputError
from crypto.identity import Authority, read_peer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AUTHORITY = Authority("ours", NOW, 4000 * DAY)
PEM = AUTHORITY.issue("a", lifetime=30 * DAY).certificate

Moment = Callable[[datetime], None]


@pytest.fixture
def enrolments(tmp_path: Path) -> Enrolments:
    made = Enrolments(tmp_path)
    made.invite("a", 7)
    made.enroll(Enrolled("a", b"k", read_peer(PEM).key, NOW, None), 7, b"r", b"c")
    return made


def refused(reason: str, admit: Callable[[bytes], str], pem: bytes) -> str:
    with pytest.raises(NotAdmitted) as error:
        admit(pem)
    assert error.value.reason == reason
    return error.value.message


def test_an_enrolled_silo_is_heard_for_as_long_as_its_certificate_holds(enrolments: Enrolments) -> None:
    for now in (NOW - timedelta(hours=1), NOW, NOW + 30 * DAY):
        assert enrolled(enrolments, lambda now=now: now)(PEM) == "a"  # type: ignore[misc]
    for now in (NOW - timedelta(hours=1, seconds=1), NOW + 30 * DAY + timedelta(seconds=1)):
        message = refused("expired", enrolled(enrolments, lambda now=now: now), PEM)  # type: ignore[misc]
        assert message.endswith(f"UTC, and the aggregator's clock says {now:%Y-%m-%d %H:%M}")


def test_a_revoked_silo_is_not_heard_though_its_certificate_holds(enrolments: Enrolments) -> None:
    admit = enrolled(enrolments, lambda: NOW)
    assert admit(PEM) == "a"
    enrolments.revoke("a", NOW)
    assert "a was revoked" in refused("revoked", admit, PEM)


def test_a_name_that_never_enrolled(enrolments: Enrolments) -> None:
    pem = AUTHORITY.issue("b", lifetime=DAY).certificate
    assert "'b' is not enrolled" in refused("unknown", enrolled(enrolments, lambda: NOW), pem)
    assert "'b' is not a silo" in refused("unknown", known({"a"}, lambda: NOW), pem)


def test_another_key_than_the_enrolments_is_not_heard_whoever_certified_it(enrolments: Enrolments) -> None:
    admit = enrolled(enrolments, lambda: NOW)
    pem = AUTHORITY.issue("a", lifetime=DAY).certificate
    assert "not the one that a calls with" in refused("other_key", admit, pem)
    enrolments.announce(enrolments.silos()[0], read_peer(pem).key)
    assert admit(pem) == "a"
    assert "not the one that a calls with" in refused("other_key", admit, PEM)


def test_a_signing_key_has_to_be_replaced_after_a_year(enrolments: Enrolments) -> None:
    later = NOW + 366 * DAY
    pem = AUTHORITY.issue("a", now=later, lifetime=DAY).certificate
    enrolments.announce(enrolments.silos()[0], read_peer(pem).key)
    assert enrolled(enrolments, lambda: later)(pem) == "a"
    message = refused("too_old", enrolled(enrolments, lambda: later + timedelta(hours=1)), pem)
    assert "366 days old" in message


@pytest.mark.parametrize(("days", "is_heard"), [(397, True), (398, False), (4000, False)])
def test_a_certificate_that_is_good_for_too_long(days: int, is_heard: bool) -> None:
    """An hour before its issue belongs to it."""
    pem = AUTHORITY.issue("a", lifetime=days * DAY).certificate
    admit = known({"a"}, lambda: NOW)
    if is_heard:
        assert admit(pem) == "a"
    else:
        refused("too_old", admit, pem)


def test_an_invitation_is_for_enrolling_and_nothing_else() -> None:
    pem = AUTHORITY.issue("a", lifetime=DAY, invitation=True).certificate
    assert "has not enrolled yet" in refused("unknown", known({"a"}, lambda: NOW), pem)
    assert checked(pem, NOW, invitation=True).name == "a"
    with pytest.raises(NotAdmitted, match="has enrolled"):
        checked(PEM, NOW, invitation=True)
    with pytest.raises(NotAdmitted, match="expired"):
        checked(pem, NOW + 2 * DAY, invitation=True)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\xff"])
def test_no_certificate_at_all(pem: bytes) -> None:
    refused("unknown", known({"a"}, lambda: NOW), pem)


@pytest.mark.clause("7.21")
def test_while_the_enrolments_are_locked_silos_are_heard_as_they_last_were(
    enrolments: Enrolments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup locks the file for 70 s: nobody waits for that, and nobody who was revoked before is heard."""
    now = 1000.0
    monkeypatch.setattr(admission, "monotonic", lambda: now)
    monkeypatch.setattr(admission, "BUSY_SECONDS", 0.05)
    other = AUTHORITY.issue("b", lifetime=DAY).certificate
    enrolments.invite("b", 8)
    enrolments.enroll(Enrolled("b", b"l", read_peer(other).key, NOW, None), 8, b"r", b"c")
    admit = enrolled(enrolments, lambda: NOW)
    assert (admit(PEM), admit(other)) == ("a", "b")
    enrolments.revoke("b", NOW)
    assert admit(PEM) == "a"
    with closing(sqlite3.connect(tmp_path / ENROLMENTS_FILE, isolation_level=None)) as backup:
        backup.execute("BEGIN EXCLUSIVE")
        for _ in range(70):
            now += 1
            assert admit(PEM) == "a"
            refused("revoked", admit, other)
        assert len(caplog.records) == 70 // 6 + 1, "nobody waits for it again within seconds"
        assert "enrolments.sqlite: database is locked" in caplog.text
        now += 300
        with pytest.raises(InputError, match="cannot be read"):
            admit(PEM)
    now += 6
    assert admit(PEM) == "a"


@pytest.mark.clause("7.21")
def test_enrolments_that_are_damaged_while_rounds_go_on(enrolments: Enrolments, tmp_path: Path) -> None:
    admit = enrolled(enrolments, lambda: NOW)
    assert admit(PEM) == "a"
    (tmp_path / ENROLMENTS_FILE).write_bytes(b"no database" * 500)
    assert admit(PEM) == "a"
    with pytest.raises(InputError, match="cannot be read"):
        enrolled(enrolments, lambda: NOW)(PEM)
