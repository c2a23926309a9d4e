"""A thief has a silo's certificate and its key. The silo was revoked for that reason, and has enrolled anew."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from crypto.errors import BadSignature, IdentityError, ProtocolError
from crypto.identity import Certified
from crypto.primitives.signing import SigningKey
from silo_agent.network.calls import Advance, Committed, Upload
from sparsilo.v1 import identity_pb2, words_pb2
from support.driven import looping, on
from support.enrolling import Aggregator, announce, renewed

pytestmark = pytest.mark.clause("7.1", "7.9", "7.10")


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[Aggregator]:
    with looping() as loop:
        made = Aggregator(tmp_path, loop)
        yield made
        on(loop, made.server.stop())


def asks(transport: Any, method: str) -> Any:
    request = getattr(identity_pb2, f"{method}Request")()
    return transport.identify(method, request, getattr(identity_pb2, f"{method}Reply"))


def assert_not_heard(transport: Any, tmp_path: Path) -> None:
    """On no call."""
    file = words_pb2.FileRequest(transcript=bytes(32))
    committed = words_pb2.CommittedRequest(round=bytes(32)).SerializeToString()
    for call in (
        transport.next,
        lambda: transport.decline(bytes(32), "plan"),
        lambda: transport.perform(Advance(b"")),
        lambda: transport.perform(Upload(b"", lambda _: iter([b"chunk"]))),
        lambda: transport.perform(Committed(lambda _: committed, list)),
        lambda: transport.download(file, tmp_path / "file", 1),
        lambda: asks(transport, "Status"),
        lambda: asks(transport, "Roster"),
        lambda: asks(transport, "SignRoster"),
        lambda: renewed(transport, "a"),
    ):
        with pytest.raises(IdentityError, match="not the one that a calls with"):
            call()


def test_it_is_not_heard_again(aggregator: Aggregator, tmp_path: Path) -> None:
    stolen = aggregator.enroll("a", "silo-000")
    with closing(aggregator.transport(stolen)) as thief:
        assert asks(thief, "Status").version
        spare = renewed(thief, "a")
        aggregator.enrolments.revoke("a", datetime.now(UTC))
        own = aggregator.enroll("a", "silo-003")
    sleep(1.1)  # a caller that was heard is not looked up again for a second
    for with_ in (stolen, spare):
        with closing(aggregator.transport(with_)) as thief:
            assert_not_heard(thief, tmp_path)
    with closing(aggregator.transport(own)) as silo:
        assert asks(silo, "Status").version


@pytest.mark.parametrize("key", ["silo-000", "silo-001", "silo-002"])
def test_it_is_not_announced_without_the_present_signing_key(key: str, aggregator: Aggregator) -> None:
    """Nor with the signing key of the revoked enrolment, which may have been stolen too."""
    stolen = aggregator.enroll("a", "silo-000")
    aggregator.enroll("b", "silo-001")
    aggregator.enrolments.revoke("a", datetime.now(UTC))
    own = aggregator.enroll("a", "silo-003")
    with closing(aggregator.transport(stolen)) as thief:
        with pytest.raises(ProtocolError, match=BadSignature.code):
            announce(thief, stolen, "a", key)
        with pytest.raises(IdentityError):
            thief.next()
    with closing(aggregator.transport(own)) as silo:
        assert asks(silo, "Status").version


def test_a_revoked_silo_announces_nothing(aggregator: Aggregator) -> None:
    stolen = aggregator.enroll("a", "silo-000")
    aggregator.enrolments.revoke("a", datetime.now(UTC))
    with closing(aggregator.transport(stolen)) as thief, pytest.raises(IdentityError, match="a was revoked"):
        announce(thief, stolen, "a", "silo-000")


def test_a_stolen_certificate_does_not_renew_itself(aggregator: Aggregator) -> None:
    """Nobody knows of the theft yet. What the thief has issued is heard only if the silo's signing key says so."""
    stolen = aggregator.enroll("a", "silo-000")
    with closing(aggregator.transport(stolen)) as thief:
        spare = renewed(thief, "a")
    made_up = SigningKey.generate(aggregator.suite)
    with closing(aggregator.transport(spare)) as thief:
        with pytest.raises(IdentityError, match="not the one that a calls with"):
            asks(thief, "Status")
        with pytest.raises(ProtocolError, match=BadSignature.code):
            thief.identify("Announce", forged(made_up, spare), identity_pb2.AnnounceReply)
    with closing(aggregator.transport(stolen)) as silo:
        own = renewed(silo, "a")
    with closing(aggregator.transport(own)) as silo:
        announce(silo, own, "a", "silo-000")
        assert asks(silo, "Status").version
    sleep(1.1)
    with closing(aggregator.transport(stolen)) as thief, pytest.raises(IdentityError, match="not the one that a calls"):
        asks(thief, "Status")


def forged(key: SigningKey, own: Certified) -> identity_pb2.AnnounceRequest:
    from crypto.identity import read_peer
    from crypto.roster import sign_certificate_key

    return identity_pb2.AnnounceRequest(signature=sign_certificate_key(key, "a", read_peer(own.certificate).key))
