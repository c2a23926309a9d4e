"""Enrolment, renewal, revocation and expiry against a real server over mutual TLS, with a clock that tests set."""

import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.round_driver import RoundDriver
from crypto.encoding.wire import encode
from crypto.errors import ConnectionFailed, IdentityError, ProtocolError, SparsiloError
from crypto.identity import Authority, Certified, certificate_request, read_peer
from crypto.roster import fingerprint, sign_enrolment, sign_roster
from silo_agent.network.calls import Upload
from silo_agent.network.services import IDENTITY
from silo_agent.network.transport import Transport
from sparsilo.v1 import identity_pb2, words_pb2
from support.driven import looping, on
from support.enrolling import DAY, KEYS, Aggregator, announce, asking, renewed


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[Aggregator]:
    with looping() as loop:
        made = Aggregator(tmp_path, loop)
        yield made
        on(loop, made.server.stop())


def status(transport: Transport) -> identity_pb2.StatusReply:
    return transport.identify("Status", identity_pb2.StatusRequest(), identity_pb2.StatusReply)


def shown(transport: Transport) -> dict[str, bytes]:
    reply = transport.identify("Roster", identity_pb2.RosterRequest(), identity_pb2.RosterReply)
    return {each.silo: each.signing_key for each in reply.silos}


def test_three_silos_enrol_and_sign_the_roster(aggregator: Aggregator) -> None:
    certificates = {silo: aggregator.enroll(silo) for silo in "abc"}
    for at, (silo, own) in enumerate(certificates.items()):
        assert read_peer(own.certificate).name == silo
        with closing(aggregator.transport(own)) as transport:
            roster = shown(transport)
            assert roster == {each: KEYS[f"silo-00{index}"].public_bytes for index, each in enumerate("abc")}
            assert status(transport).roster == fingerprint(roster)
            assert abs(status(transport).unix_seconds - datetime.now(UTC).timestamp()) < 5
            signature = sign_roster(KEYS[f"silo-00{at}"], roster)
            signed = identity_pb2.SignRosterRequest(fingerprint=fingerprint(roster), signature=signature)
            transport.identify("SignRoster", signed, identity_pb2.SignRosterReply)
    assert sorted(aggregator.enrolments.signatures(fingerprint(roster))) == ["a", "b", "c"]


def test_a_signature_of_another_roster_or_by_another_key_is_not_kept(aggregator: Aggregator) -> None:
    with closing(aggregator.transport(aggregator.enroll("a"))) as transport:
        roster = shown(transport)
        for claimed, key in (({"a": b"x"}, "silo-000"), (roster, "silo-001")):
            signed = identity_pb2.SignRosterRequest(
                fingerprint=fingerprint(claimed), signature=sign_roster(KEYS[key], claimed)
            )
            with pytest.raises(ProtocolError):
                transport.identify("SignRoster", signed, identity_pb2.SignRosterReply)
    assert aggregator.enrolments.signatures(fingerprint(roster)) == {}


@pytest.mark.clause("7.7")
def test_an_invitation_is_used_once_and_its_lost_answer_is_given_again(aggregator: Aggregator) -> None:
    (request, _), (other, _) = certificate_request("a"), certificate_request("a")
    with closing(aggregator.transport(aggregator.invitation("a"))) as transport:
        first = transport.identify("Enroll", asking("a", request), identity_pb2.EnrollReply)
        assert transport.identify("Enroll", asking("a", request), identity_pb2.EnrollReply) == first
        for again in (asking("a", other), asking("a", request, "silo-002")):
            with pytest.raises(IdentityError, match="was used before"):
                transport.identify("Enroll", again, identity_pb2.EnrollReply)
    assert aggregator.enrolments.roster() == {"a": KEYS["silo-000"].public_bytes}


@pytest.mark.clause("7.7")
def test_an_invitation_opens_nothing_but_enrolment_and_nothing_else_opens_that(aggregator: Aggregator) -> None:
    with closing(aggregator.transport(aggregator.invitation("a"))) as transport:
        for call in (transport.next, lambda: status(transport), lambda: transport.decline(bytes(32), "plan")):
            with pytest.raises(IdentityError, match="has not enrolled yet"):
                call()
    request, _ = certificate_request("a")
    with (
        closing(aggregator.transport(aggregator.enroll("b"))) as transport,
        pytest.raises(IdentityError, match="has enrolled"),
    ):
        transport.identify("Enroll", asking("a", request), identity_pb2.EnrollReply)
    assert set(aggregator.enrolments.roster()) == {"b"}


@pytest.mark.parametrize("reason", ["", "Plan", "plan\n2026 root logged in", "x" * 41, "\x1b[2J"])
def test_a_reason_for_declining_is_an_error_code_and_no_text_for_logs(reason: str, aggregator: Aggregator) -> None:
    with (
        closing(aggregator.transport(aggregator.enroll("a"))) as transport,
        pytest.raises(ProtocolError, match="no reason"),
    ):
        transport.decline(bytes(32), reason)


@pytest.mark.clause("7.7")
def test_an_expired_invitation(aggregator: Aggregator) -> None:
    """One that the aggregator's clock says is over, and one that TLS does not even let in."""
    request, _ = certificate_request("a")
    with closing(aggregator.transport(aggregator.invitation("a"))) as transport:
        aggregator.later = 2 * DAY
        with pytest.raises(IdentityError, match="expired"):
            transport.identify("Enroll", asking("a", request), identity_pb2.EnrollReply)
        assert aggregator.refused("expired") == 1
    aggregator.later = timedelta()
    with (
        closing(aggregator.transport(aggregator.invitation("a", timedelta(minutes=-1)))) as transport,
        pytest.raises(ConnectionFailed),
    ):
        transport.identify("Enroll", asking("a", request), identity_pb2.EnrollReply)
    assert aggregator.enrolments.roster() == {}


@pytest.mark.clause("7.7")
def test_an_altered_or_forged_invitation(aggregator: Aggregator) -> None:
    """Another name under the same key, a certificate that no invitation stands for, another authority's."""
    request, _ = certificate_request("b")
    given = aggregator.invitation("a")
    with (
        closing(aggregator.transport(given)) as transport,
        pytest.raises(SparsiloError),
    ):  # the claim is for b, the invitation for a
        transport.identify("Enroll", asking("b", request), identity_pb2.EnrollReply)
    unknown = aggregator.authority.issue("b", lifetime=DAY, now=datetime.now(UTC), invitation=True)
    with closing(aggregator.transport(unknown)) as transport, pytest.raises(IdentityError, match="did not give out"):
        transport.identify("Enroll", asking("b", request), identity_pb2.EnrollReply)
    forged = Authority("sparsilo aggregator", datetime.now(UTC), DAY).issue("b", invitation=True)
    with closing(aggregator.transport(forged)) as transport, pytest.raises(ConnectionFailed):
        transport.identify("Enroll", asking("b", request), identity_pb2.EnrollReply)
    assert aggregator.enrolments.roster() == {}


@pytest.mark.clause("7.1")
def test_an_expired_certificate_loses_a_live_connection(aggregator: Aggregator) -> None:
    with closing(aggregator.transport(aggregator.enroll("a"))) as transport:
        assert status(transport).version
        aggregator.later = 31 * DAY
        expire_admission()
        with pytest.raises(IdentityError, match="expired"):
            status(transport)
        with pytest.raises(IdentityError, match="expired"):
            transport.next()
    assert aggregator.refused("expired") >= 2


@pytest.mark.clause("7.1")
def test_a_revoked_silo_loses_a_live_connection(aggregator: Aggregator) -> None:
    with closing(aggregator.transport(aggregator.enroll("a"))) as transport:
        assert status(transport).version
        aggregator.enrolments.revoke("a", datetime.now(UTC))
        expire_admission()
        with pytest.raises(IdentityError, match="a was revoked"):
            status(transport)
    assert aggregator.refused("revoked") == 1


@pytest.mark.clause("7.1")
def test_an_upload_under_way_ends_with_the_certificate(aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []

    async def upload(silo: str, chunks: Any) -> bytes:
        async for chunk in chunks:
            taken.append(chunk)
        return b""

    async def held(silo: str, round_digest: bytes) -> bytes:
        return encode(words_pb2.HeldReply())

    monkeypatch.setattr(aggregator.driver, "held", held)
    monkeypatch.setattr(aggregator.driver, "upload", upload)
    message = encode(words_pb2.WordChunk(index=1, words=bytes(8)))

    def chunks(_: int) -> Iterator[bytes]:
        for _ in range(3):
            yield message
        while len(taken) < 3:
            wait()
        aggregator.later = 31 * DAY
        expire_admission()
        for _ in range(500):  # or until the stream is refused
            wait()
            yield message

    with (
        closing(aggregator.transport(aggregator.enroll("a"))) as transport,
        pytest.raises(IdentityError, match="expired"),
    ):
        transport.perform(Upload(encode(words_pb2.HeldRequest()), chunks))
    assert 3 <= len(taken) < 1000


@pytest.mark.clause("7.9", "7.10")
def test_a_renewed_certificate_is_heard_once_it_is_announced_and_the_one_before_no_more(aggregator: Aggregator) -> None:
    own = aggregator.enroll("a")
    with closing(aggregator.transport(own)) as before, closing(aggregator.transport(own)) as transport:
        aggregator.later = timedelta(minutes=4)
        next_ = renewed(transport, "a")
        assert (read_peer(next_.certificate).name, read_peer(next_.certificate).invitation) == ("a", False)
        assert read_peer(next_.certificate).end > read_peer(own.certificate).end + timedelta(minutes=3)
        transport.certify(next_, aggregator.identity.trusted)
        with pytest.raises(IdentityError, match="not the one that a calls with"):
            status(transport)
        assert status(before).version
        announce(transport, next_, "a", "silo-000")
        announce(transport, next_, "a", "silo-000")
        assert status(transport).version
        expire_admission()
        with pytest.raises(IdentityError, match="not the one that a calls with"):
            status(before)
        with pytest.raises(IdentityError, match="no certificate request"):
            transport.identify("Renew", identity_pb2.RenewRequest(certificate_request=b"x"), identity_pb2.RenewReply)
    assert aggregator.refused("other_key") == 2


def test_whatever_name_a_renewal_asks_for(aggregator: Aggregator) -> None:
    with closing(aggregator.transport(aggregator.enroll("a"))) as transport:
        request, _ = certificate_request("b")
        asked = identity_pb2.RenewRequest(certificate_request=request)
        issued = transport.identify("Renew", asked, identity_pb2.RenewReply).certificate
    assert read_peer(issued).name == "a"


@pytest.mark.clause("7.9", "7.10")
def test_a_silo_with_a_certificate_of_its_own(aggregator: Aggregator) -> None:
    """Its authority may issue as many as it likes: heard is the one that was enrolled, or announced since."""
    theirs = [aggregator.authority.issue("a", now=datetime.now(UTC), lifetime=DAY) for _ in range(3)]
    key = read_peer(theirs[0].certificate).key
    signing_key = KEYS["silo-000"]
    with closing(aggregator.transport(aggregator.invitation("a"))) as transport:
        for request, claimed in ((b"", b""), (b"", key[:-1]), (certificate_request("a")[0], key)):
            asked = identity_pb2.EnrollRequest(
                signing_key=signing_key.public_bytes,
                certificate_request=request,
                signature=sign_enrolment(signing_key, "a", request, claimed),
                certificate_key=claimed,
            )
            with pytest.raises(ProtocolError, match="names no key of a certificate"):
                transport.identify("Enroll", asked, identity_pb2.EnrollReply)
        asked = identity_pb2.EnrollRequest(
            signing_key=signing_key.public_bytes,
            signature=sign_enrolment(signing_key, "a", b"", key),
            certificate_key=key,
        )
        assert transport.identify("Enroll", asked, identity_pb2.EnrollReply).certificate == b""
    with closing(aggregator.transport(theirs[0])) as first, closing(aggregator.transport(theirs[1])) as second:
        assert status(first).version
        with pytest.raises(IdentityError, match="not the one that a calls with"):
            status(second)
        announce(second, theirs[1], "a", "silo-000")
        assert status(second).version
        expire_admission()
        with pytest.raises(IdentityError, match="not the one that a calls with"):
            status(first)


def test_the_servers_certificate_rotates_without_a_restart(
    aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = aggregator.enroll("a")
    with closing(aggregator.transport(own)) as before:
        assert status(before).version
        serials = {certificate_serial(aggregator.port, own, aggregator.identity.trusted)}
        monkeypatch.setattr(aggregator.identity, "_clock", lambda: datetime.now(UTC) + 16 * DAY)
        monkeypatch.setattr(aggregator.identity, "_issue", issued_now(aggregator))
        while len(serials) == 1:  # until it is noticed
            wait()
            with suppress(ConnectionResetError, ssl.SSLEOFError):  # the first server stopped: in its queue, or greeted
                serials.add(certificate_serial(aggregator.port, own, aggregator.identity.trusted))
        assert status(before).version
    assert len(serials) == 2


def issued_now(aggregator: Aggregator) -> Any:
    return lambda: aggregator.authority.issue("aggregator", ("127.0.0.1",), now=datetime.now(UTC), lifetime=60 * DAY)


def certificate_serial(port: int, own: Certified, authority: bytes) -> int:
    """Of the certificate that a new connection is shown."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        pair = Path(folder, "pair.pem")
        pair.write_bytes(own.certificate + own.private_key)
        context = ssl.create_default_context(cadata=authority.decode())
        context.load_cert_chain(pair)
        context.set_alpn_protocols(["h2"])
        import socket

        raw = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
            der = tls.getpeercert(True)
    assert der
    return read_peer(ssl.DER_cert_to_PEM_cert(der).encode()).serial


def test_without_an_identity_service_nobody_enrols() -> None:
    """As in `aggregator local`, whose silos have their keys from it."""
    from support.driven import serving

    authority = Authority("ours", datetime.now(UTC), DAY)
    driver = RoundDriver(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
    own = authority.issue("aggregator", ("127.0.0.1",))
    with serving(driver, ["a"], own, authority.certificate) as port:
        silo = authority.issue("a")
        credentials = grpc.ssl_channel_credentials(authority.certificate, silo.private_key, silo.certificate)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(f"/{IDENTITY}/Status")(b"", timeout=120)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def expire_admission() -> None:
    """More than the second for which a caller is admitted without looking again."""
    wait(1.1)


def wait(seconds: float = 0.01) -> None:
    import time

    time.sleep(seconds)
