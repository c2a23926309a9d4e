"""An invitation is used as it was given out or not at all; its fingerprint may be read aloud."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from crypto.errors import IdentityError
from crypto.identity import Authority, Certified
from silo_agent.network.fingerprint import grouped, plain_fingerprint
from silo_agent.network.invitation import Invitation

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AUTHORITY = Authority("ours", NOW, 400 * DAY)


def invitation(silo: str = "a", own: Certified | None = None, **changes: str) -> Invitation:
    own = own or AUTHORITY.issue(silo, lifetime=3 * DAY, invitation=True)
    given = Invitation(
        *(silo, "host:1", "default", "soon"),
        *(own.certificate.decode(), own.private_key.decode(), AUTHORITY.certificate.decode()),
    )
    return replace(given, **changes)


def saved(given: Invitation | bytes, folder: Path) -> tuple[Path, str]:
    file = folder / "invitation.yaml"
    file.write_bytes(given if isinstance(given, bytes) else given.to_bytes())
    return file, sha256(file.read_bytes()).hexdigest()


def test_what_was_written_is_read_and_shows_no_key(tmp_path: Path) -> None:
    given = invitation()
    assert Invitation.read(*saved(given, tmp_path), NOW) == given
    assert "PRIVATE" not in repr(given)


def test_an_altered_file_has_another_fingerprint(tmp_path: Path) -> None:
    file, told = saved(invitation(), tmp_path)
    content = file.read_bytes()
    for altered in (
        content.replace(b"host:1", b"host:2"),
        content + b"\n",
        invitation(authority=Authority("theirs", NOW, DAY).certificate.decode()).to_bytes(),
    ):
        file.write_bytes(altered)
        with pytest.raises(IdentityError, match="not the one that was given"):
            Invitation.read(file, told, NOW)


def test_the_fingerprint_may_be_grouped_as_it_was_read_aloud(tmp_path: Path) -> None:
    file, told = saved(invitation(), tmp_path)
    for spelled in (told.upper(), grouped(bytes.fromhex(told)), ":".join(told[at : at + 2] for at in range(0, 64, 2))):
        assert plain_fingerprint(spelled) == told
        Invitation.read(file, spelled, NOW)
    for wrong in ("", told[:63], told + "0", told[:-1] + "g"):
        with pytest.raises(IdentityError, match="64 hex digits"):
            Invitation.read(file, wrong, NOW)
    with pytest.raises(IdentityError, match="has the fingerprint"):
        Invitation.read(file, ("1" if told[0] == "0" else "0") + told[1:], NOW)


@pytest.mark.parametrize(
    ("given", "later", "problem"),
    [
        (invitation(), 4 * DAY, "is valid from"),
        (invitation("b", AUTHORITY.issue("a", lifetime=DAY, invitation=True)), 0 * DAY, "no invitation for b"),
        (invitation(own=AUTHORITY.issue("a", lifetime=DAY)), 0 * DAY, "no invitation for a"),
        (invitation(private_key=AUTHORITY.issue("a").private_key.decode()), 0 * DAY, "not the private key"),
        (invitation(certificate="none"), 0 * DAY, "holds no PEM certificate"),
        (invitation().to_bytes().replace(b"aggregator:", b"agregator:"), 0 * DAY, "is no invitation"),
        (b"silo: a\n", 0 * DAY, "is no invitation"),
    ],
)
def test_a_file_that_its_own_fingerprint_does_not_make_good(
    given: Invitation | bytes, later: timedelta, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(IdentityError, match=problem):
        Invitation.read(*saved(given, tmp_path), NOW + later)
