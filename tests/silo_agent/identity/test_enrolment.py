"""An invitation is used as it was given out or not at all; keys stay here and survive a broken enrolment."""

import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from crypto.errors import IdentityError, OutputError
from crypto.identity import Authority, Certified, check_key_pair
from crypto.names import Suite
from crypto.roster import check_enrolment, fingerprint
from silo_agent.config import AgentConfig, read_signing_key
from silo_agent.identity.enrolment import Enrolment, Invitation, agent_config, grouped, plain_fingerprint, policy_file
from silo_agent.identity.pinned_roster import enrolled, pin, signed, verify_pinned
from sparsilo.v1 import identity_pb2
from support.plans import signing_keys

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


@pytest.mark.parametrize("suite", ["default", "fips"])
def test_keys_are_made_once_and_are_closed_to_others(suite: str, tmp_path: Path) -> None:
    given, out = invitation(suite=suite), tmp_path / "silo"
    request = Enrolment(given, out, None).request
    assert Enrolment(given, out, None).request == request  # the first one broke off
    assert not out.exists()
    kind = Suite[suite.upper()]
    check_enrolment(kind, request.signing_key, "a", request.certificate_request, request.signature)
    certificate = AUTHORITY.certify(request.certificate_request, "a", NOW, DAY)
    enrolment = Enrolment(given, out, None)
    assert enrolment.finish(identity_pb2.EnrollReply(certificate=certificate), NOW, {"x": "y"}) == request.signing_key
    assert {file.name for file in out.iterdir()} == {"signing_key", "tls.key", "tls.crt", "ca.crt", "x"}
    assert read_signing_key(out / "signing_key", kind).public_bytes == request.signing_key
    check_key_pair((out / "tls.key").read_bytes(), (out / "tls.crt").read_bytes())
    for secret in ("signing_key", "tls.key"):
        assert stat.S_IMODE((out / secret).stat().st_mode) == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    with pytest.raises(OutputError, match="exists"):
        Enrolment(given, out, None)


def test_a_certificate_that_was_not_asked_for_is_not_taken(tmp_path: Path) -> None:
    out = tmp_path / "silo"
    enrolment = Enrolment(invitation(), out, None)
    for certificate in (
        AUTHORITY.issue("a").certificate,
        AUTHORITY.certify(enrolment.request.certificate_request, "b", NOW, DAY),
        AUTHORITY.certify(enrolment.request.certificate_request, "a", NOW - 2 * DAY, DAY),
        b"",
    ):
        with pytest.raises(IdentityError, match="the certificate that the aggregator issued"):
            enrolment.finish(identity_pb2.EnrollReply(certificate=certificate), NOW, {})
        assert not out.exists()


def test_a_silo_with_its_own_certificate_asks_for_none(tmp_path: Path) -> None:
    own = (tmp_path / "c", tmp_path / "k", tmp_path / "a")
    enrolment = Enrolment(invitation(), tmp_path / "silo", own)
    assert enrolment.request.certificate_request == b""
    enrolment.finish(identity_pb2.EnrollReply(), NOW, {})
    assert {file.name for file in (tmp_path / "silo").iterdir()} == {"signing_key"}
    written = yaml.safe_load(agent_config(invitation(), tmp_path, tmp_path, own))
    assert (written["certificate"], written["renew_certificate"]) == (str(tmp_path / "c"), False)


def test_the_files_that_are_written_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(agent_config(invitation(suite="fips"), tmp_path / "model", tmp_path / "text", None))
    config = AgentConfig.read(file)
    assert (config.silo, config.aggregator, config.suite) == ("a", "host:1", Suite.FIPS)
    assert (config.stay, config.renew_certificate) == (True, True)
    assert yaml.safe_load(policy_file(bytes(32)))["models"] == ["00" * 32]
    assert yaml.safe_load(policy_file(bytes(32)))["approval"] == "manual"


KEYS = signing_keys(3)
ROSTER = {silo: key.public_bytes for silo, key in KEYS.items()}


def shown(roster: dict[str, bytes], signatures: dict[str, bytes]) -> identity_pb2.RosterReply:
    return identity_pb2.RosterReply(
        silos=[
            identity_pb2.EnrolledSilo(silo=silo, signing_key=key, signature=signatures.get(silo, b""))
            for silo, key in roster.items()
        ]
    )


def test_a_roster_is_pinned_by_its_fingerprint_and_signed(tmp_path: Path) -> None:
    file = tmp_path / "roster.yaml"
    made = pin(file, ROSTER, grouped(fingerprint(ROSTER)), "silo-001", KEYS["silo-001"])
    assert sha256(file.read_bytes()).digest() == fingerprint(ROSTER) == made.fingerprint
    reply = shown(ROSTER, {"silo-001": made.signature, "silo-002": made.signature})
    assert enrolled(reply) == ROSTER
    assert signed(reply, Suite.DEFAULT) == {"silo-000": False, "silo-001": True, "silo-002": False}


@pytest.mark.parametrize(
    ("roster", "silo", "problem"),
    [
        (ROSTER | {"silo-003": ROSTER["silo-002"]}, "silo-001", "not the one with the given fingerprint"),
        ({"silo-000": ROSTER["silo-000"]}, "silo-000", "not the one with the given fingerprint"),
        (ROSTER, "silo-004", "does not have this silo"),
        (ROSTER, "silo-002", "does not have this silo"),
    ],
)
def test_another_roster_is_not_pinned(roster: dict[str, bytes], silo: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=problem):
        pin(tmp_path / "roster.yaml", roster, fingerprint(ROSTER).hex(), silo, KEYS["silo-001"])
    assert list(tmp_path.iterdir()) == []


def test_a_pinned_roster_is_verified_against_what_all_signed() -> None:
    from crypto.roster import sign_roster

    signatures = {silo: sign_roster(key, ROSTER) for silo, key in KEYS.items()}
    verify_pinned(ROSTER, shown(ROSTER, signatures), Suite.DEFAULT)
    more = ROSTER | {"silo-009": signing_keys(10)["silo-009"].public_bytes}
    other = ROSTER | {"silo-002": signing_keys(10)["silo-009"].public_bytes}
    fewer = {silo: key for silo, key in ROSTER.items() if silo != "silo-002"}
    for roster, signed_by, problem in (
        (more, signatures, "silo-009, which this silo did not pin"),
        (other, signatures, "lacks or changed the key of silo-002"),
        (fewer, signatures, "lacks or changed the key of silo-002"),
        (ROSTER, {**signatures, "silo-000": b""}, "not signed by silo-000"),
    ):
        with pytest.raises(IdentityError, match=problem):
            verify_pinned(ROSTER, shown(roster, signed_by), Suite.DEFAULT)
