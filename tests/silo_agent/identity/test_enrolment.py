"""A silo's keys stay on its machine and survive a broken enrolment; its roster is pinned as it was agreed on."""

import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from crypto.errors import IdentityError, OutputError
from crypto.identity import Authority, check_key_pair, read_peer
from crypto.names import Suite
from crypto.roster import check_enrolment, fingerprint
from silo_agent.config import AgentConfig
from silo_agent.host.credential_files import read_signing_key
from silo_agent.identity.enrolment import Enrolment, agent_config, policy_file
from silo_agent.identity.pinned_roster import enrolled, pin, signed, verify_pinned
from silo_agent.network.fingerprint import grouped
from silo_agent.network.invitation import Invitation
from silo_agent.settings.layered_config import config_file
from sparsilo.v1 import identity_pb2
from support.plans import signing_keys

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AUTHORITY = Authority("ours", NOW, 400 * DAY)


def invitation(suite: str = "default") -> Invitation:
    own = AUTHORITY.issue("a", lifetime=3 * DAY, invitation=True)
    return Invitation(
        *("a", "host:1", suite, "soon"),
        *(own.certificate.decode(), own.private_key.decode(), AUTHORITY.certificate.decode()),
    )


@pytest.mark.parametrize("suite", ["default", "fips"])
def test_keys_are_made_once_and_are_closed_to_others(suite: str, tmp_path: Path) -> None:
    given, out = invitation(suite=suite), tmp_path / "silo"
    request = Enrolment(given, out, None).request
    assert Enrolment(given, out, None).request == request  # the first one broke off
    assert not out.exists()
    kind = Suite[suite.upper()]
    check_enrolment(kind, request.signing_key, "a", request.certificate_request, b"", request.signature)
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
    with pytest.raises(IdentityError, match=f"{own[0]}: cannot be read"):
        _ = enrolment.request
    own[0].write_bytes(AUTHORITY.issue("a").certificate)
    request, key = enrolment.request, read_peer(own[0].read_bytes()).key
    assert (request.certificate_request, request.certificate_key) == (b"", key)
    check_enrolment(Suite.DEFAULT, request.signing_key, "a", b"", key, request.signature)
    enrolment.finish(identity_pb2.EnrollReply(), NOW, {})
    assert {file.name for file in (tmp_path / "silo").iterdir()} == {"signing_key"}
    config = agent_config(invitation(), tmp_path, tmp_path, own)
    assert (config.certificate, config.private_key, config.authority) == own
    assert not config.renew_certificate


def test_the_files_that_are_written_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(config_file(agent_config(invitation(suite="fips"), tmp_path / "model", tmp_path / "text", None)))
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
