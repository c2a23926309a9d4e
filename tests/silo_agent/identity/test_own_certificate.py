"""The agent's certificate while it runs: replaced files are taken up, and an issued one is renewed at half its life."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from crypto.errors import ConnectionFailed, IdentityError
from crypto.identity import Authority, Certified, check_key_pair, read_peer
from crypto.names import Suite
from crypto.roster import check_certificate_key
from silo_agent.config import AgentConfig
from silo_agent.identity.own_certificate import OwnCertificate
from sparsilo.v1 import identity_pb2
from support.key_files import write_key
from support.plans import signing_keys

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AUTHORITY = Authority("ours", NOW, 400 * DAY)
KEY = signing_keys(1)["silo-000"]


class FakeTransport:
    """Issues what the aggregator would, at `now`, and remembers what it was told to go on with."""

    def __init__(self) -> None:
        self.now = NOW
        self.used: list[Certified] = []
        self.silo = "a"
        self.announced: list[bytes] = []

    def identify(self, method: str, request: Message, reply: type[Message]) -> Message:
        if isinstance(request, identity_pb2.AnnounceRequest):
            assert method == "Announce"
            self.announced.append(request.signature)
            return identity_pb2.AnnounceReply()
        assert method == "Renew"
        assert isinstance(request, identity_pb2.RenewRequest)
        issued = AUTHORITY.certify(request.certificate_request, self.silo, self.now, 30 * DAY)
        return identity_pb2.RenewReply(certificate=issued)

    def certify(self, own: Certified, authority: bytes) -> None:
        assert authority == AUTHORITY.certificate
        self.used.append(own)


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    made = AgentConfig(
        *("a", "host:1", tmp_path, tmp_path / "text", tmp_path / "state", tmp_path / "key", tmp_path / "roster"),
        *(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt", tmp_path / "policy"),
        renew_certificate=True,
    )
    made.authority.write_bytes(AUTHORITY.certificate)
    write_key(made.signing_key, KEY.to_bytes().hex())
    put(made, AUTHORITY.issue("a", lifetime=30 * DAY))
    return made


def put(config: AgentConfig, own: Certified) -> None:
    config.certificate.write_bytes(own.certificate)
    write_key(config.private_key, own.private_key)


def on_disk(config: AgentConfig) -> Certified:
    return Certified(config.certificate.read_bytes(), config.private_key.read_bytes())


def assert_announced(transport: Any, own: Certified) -> None:
    [signature] = transport.announced
    check_certificate_key(Suite.DEFAULT, KEY.public_bytes, "a", read_peer(own.certificate).key, signature)


@pytest.fixture
def transport() -> Any:
    return FakeTransport()


def test_it_is_renewed_at_half_its_life_and_not_before(config: AgentConfig, transport: Any) -> None:
    own = OwnCertificate(config, NOW)
    first, _ = own.current
    assert not own.keep_fresh(transport, NOW + 14 * DAY)
    transport.now = NOW + 16 * DAY
    assert own.keep_fresh(transport, transport.now)
    renewed = on_disk(config)
    assert transport.used == [renewed]
    check_key_pair(renewed.private_key, renewed.certificate)
    assert renewed.private_key != first.private_key
    assert_announced(transport, renewed)
    assert own.expiry() == read_peer(renewed.certificate).end == NOW + 46 * DAY
    assert not own.keep_fresh(transport, transport.now)
    assert [file.name for file in config.certificate.parent.glob("*.next")] == []
    assert config.private_key.stat().st_mode & 0o777 == 0o600


def test_a_silo_with_its_own_authority_does_not_ask(config: AgentConfig, transport: Any) -> None:
    own = OwnCertificate(replace(config, renew_certificate=False), NOW)
    assert not own.keep_fresh(transport, NOW + 29 * DAY)


def test_replaced_files_are_taken_up_when_they_fit_together(config: AgentConfig, transport: Any) -> None:
    own = OwnCertificate(config, NOW)
    second = AUTHORITY.issue("a", lifetime=60 * DAY)
    config.certificate.write_bytes(second.certificate)
    assert not own.keep_fresh(transport, NOW)
    assert transport.used == []
    put(config, second)
    assert own.keep_fresh(transport, NOW)
    assert transport.used == [second]
    assert_announced(transport, second)


def test_it_announces_the_certificate_in_use_and_not_what_lies_on_disk(config: AgentConfig, transport: Any) -> None:
    own = OwnCertificate(config, NOW)
    used = on_disk(config)
    put(config, AUTHORITY.issue("a", lifetime=60 * DAY))
    own.announce(transport)
    assert_announced(transport, used)


def test_another_silos_certificate_is_not_taken_up(config: AgentConfig, transport: Any) -> None:
    own = OwnCertificate(config, NOW)
    put(config, AUTHORITY.issue("b", lifetime=60 * DAY))
    assert not own.keep_fresh(transport, NOW)
    before = AUTHORITY.issue("a", lifetime=30 * DAY)
    put(config, before)
    transport.silo, transport.now = "b", NOW + 16 * DAY
    assert own.keep_fresh(transport, transport.now)
    assert transport.used == [before]
    with pytest.raises(IdentityError, match="is for b, not for a"):
        own.keep_fresh(transport, transport.now)
    assert on_disk(config) == before


def test_a_renewal_that_was_cut_off_is_finished_or_forgotten(
    config: AgentConfig, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any of its two moves; a start afterwards finds a key and a certificate that fit."""
    moves = Path.replace
    for allowed in (0, 1):
        put(config, AUTHORITY.issue("a", lifetime=30 * DAY))
        left = [allowed]

        def move(self: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                raise ConnectionFailed("killed")
            left[0] -= 1
            return moves(self, target)

        own = OwnCertificate(config, NOW)
        transport.now = NOW + 16 * DAY
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", move)
            with pytest.raises(ConnectionFailed):
                own.keep_fresh(transport, transport.now)
        found, _ = OwnCertificate(config, transport.now).current
        check_key_pair(found.private_key, found.certificate)
        assert read_peer(found.certificate).end == NOW + (46 if allowed else 30) * DAY
