"""The authority is made once; the server's certificate is renewed, or taken up where its files were replaced."""

import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig
from aggregator.silos.server_identity import ServerIdentity
from crypto.errors import IdentityError
from crypto.identity import Authority, Certified, read_peer
from support.key_files import write_key

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(tmp_path: Path) -> AggregatorConfig:
    return AggregatorConfig("aggregator.example.org:443", "model", tmp_path / "state")


def test_the_authority_is_the_same_after_a_restart_and_its_key_is_closed_to_others(
    config: AggregatorConfig, clock: Clock
) -> None:
    first = ServerIdentity(config, clock)
    clock.now += 100 * DAY
    again = ServerIdentity(config, clock)
    assert again.authority.own == first.authority.own
    assert again.trusted == first.trusted == first.authority.certificate
    assert stat.S_IMODE((config.state / "authority.key").stat().st_mode) == 0o600


def test_a_start_that_was_cut_off_before_the_certificate_begins_anew(config: AggregatorConfig, clock: Clock) -> None:
    config.state.mkdir()
    (config.state / "authority.key").write_text("half")
    ServerIdentity(config, clock)


def test_an_issued_certificate_is_renewed_at_half_its_life(config: AggregatorConfig, clock: Clock) -> None:
    identity = ServerIdentity(config, clock)
    first = identity.current()
    assert read_peer(first[0].certificate).end == NOW + 30 * DAY
    clock.now += 14 * DAY
    assert identity.current() == first
    clock.now += 2 * DAY
    renewed = identity.current()
    assert read_peer(renewed[0].certificate).end == NOW + 46 * DAY
    assert renewed[0].private_key != first[0].private_key
    assert renewed[1] == first[1]


@pytest.fixture
def own(config: AggregatorConfig, tmp_path: Path) -> AggregatorConfig:
    files = {name: tmp_path / name for name in ("certificate", "private_key", "authority")}
    files["authority"].write_bytes(THEIRS.certificate)
    given = replace(config, **files)
    put(given, THEIRS.issue("aggregator", ("aggregator.example.org",), lifetime=20 * DAY))
    return given


THEIRS = Authority("bank", NOW, 100 * DAY)


def put(config: AggregatorConfig, certified: Certified) -> None:
    assert config.certificate
    assert config.private_key
    config.certificate.write_bytes(certified.certificate)
    write_key(config.private_key, certified.private_key)


def test_own_files_are_taken_up_when_both_are_replaced(own: AggregatorConfig, clock: Clock) -> None:
    identity = ServerIdentity(own, clock)
    assert identity.trusted == THEIRS.certificate
    first, _ = identity.current()
    second = THEIRS.issue("aggregator", ("aggregator.example.org",), lifetime=50 * DAY)
    assert own.certificate
    own.certificate.write_bytes(second.certificate)
    assert identity.current()[0] == first  # its key is not there yet
    put(own, second)
    assert identity.current()[0] == second
    clock.now += 60 * DAY
    put(own, first)  # which has expired by now
    assert identity.current()[0] == second
    own.certificate.unlink()
    assert identity.current()[0] == second


def test_a_wrong_file_is_named_at_the_start(own: AggregatorConfig, clock: Clock) -> None:
    assert own.private_key
    own.private_key.write_bytes(THEIRS.issue("other").private_key)
    with pytest.raises(IdentityError, match=f"{own.private_key}: is not the private key"):
        ServerIdentity(own, clock)


def test_other_authorities_are_accepted_beside_its_own(config: AggregatorConfig, clock: Clock, tmp_path: Path) -> None:
    others = tmp_path / "others.pem"
    others.write_bytes(THEIRS.certificate)
    identity = ServerIdentity(replace(config, client_authorities=others), clock)
    assert identity.current()[1] == identity.authority.certificate + THEIRS.certificate
    assert identity.trusted == identity.authority.certificate
