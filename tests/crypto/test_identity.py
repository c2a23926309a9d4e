"""Certificates as two independent TLS verifiers see them: cryptography's and OpenSSL's."""

import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from crypto.errors import IdentityError
from crypto.identity import (
    Authority,
    Certified,
    certificate_request,
    check_certificates,
    check_key_pair,
    check_subject,
    hosts_of,
    read_peer,
    read_peers,
)
from crypto.names import Suite
from crypto.primitives.sealed import SealingKey
from support.plans import signing_keys

NOW = datetime.now(UTC).replace(microsecond=0)
MARGIN = timedelta(hours=1)
LIFE = timedelta(days=1)
SECOND = timedelta(seconds=1)


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def public_key(of: x509.Certificate) -> bytes:
    return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def authority() -> Authority:
    return Authority("test run", NOW, LIFE)


def policy(authority: Authority, now: datetime = NOW) -> PolicyBuilder:
    return PolicyBuilder().store(Store([certificate(authority.certificate)])).time(now)


def verify_server(authority: Authority, issued: Certified, host: str, now: datetime = NOW) -> None:
    try:
        subject: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    verifier = policy(authority, now).build_server_verifier(subject)  # type: ignore[arg-type]
    verifier.verify(certificate(issued.certificate), [])


def verify_client(authority: Authority, issued: Certified, now: datetime = NOW) -> list[x509.GeneralName]:
    subjects = policy(authority, now).build_client_verifier().verify(certificate(issued.certificate), []).subjects
    assert subjects is not None
    return subjects


# cryptography's verifier, RFC 5280 with the CA/Browser profile.


def test_a_server_certificate_is_good_for_each_of_its_hosts(authority: Authority) -> None:
    issued = authority.issue("aggregator", ("localhost", "127.0.0.1", "::1"))
    for host in ("localhost", "127.0.0.1", "::1"):
        verify_server(authority, issued, host)
    for host in ("aggregator", "localhost.example", "127.0.0.2", "::2"):
        with pytest.raises(VerificationError):
            verify_server(authority, issued, host)


def test_a_client_certificate_names_its_silo(authority: Authority) -> None:
    issued = authority.issue("silo-007")
    assert verify_client(authority, issued) == [x509.DNSName("silo-007")]
    [common_name] = certificate(issued.certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == "silo-007"


def test_a_certificate_serves_one_role(authority: Authority) -> None:
    with pytest.raises(VerificationError):
        verify_client(authority, authority.issue("aggregator", ("localhost",)))
    with pytest.raises(VerificationError):
        verify_server(authority, authority.issue("localhost"), "localhost")


def test_another_authoritys_certificate_is_refused(authority: Authority) -> None:
    stranger = Authority("test run", NOW, LIFE)
    with pytest.raises(VerificationError):
        verify_client(authority, stranger.issue("silo-007"))
    with pytest.raises(VerificationError):
        verify_server(authority, stranger.issue("aggregator", ("localhost",)), "localhost")


def test_certificates_hold_from_an_hour_ago_to_their_end(authority: Authority) -> None:
    issued = authority.issue("silo-007")
    for now in (NOW - MARGIN, NOW, NOW + LIFE):
        verify_client(authority, issued, now)
    for now in (NOW - MARGIN - SECOND, NOW + LIFE + SECOND):
        with pytest.raises(VerificationError):
            verify_client(authority, issued, now)


def test_a_silo_cannot_issue_certificates(authority: Authority) -> None:
    silo = authority.issue("silo-007")
    own, key = certificate(silo.certificate), load_pem_private_key(silo.private_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    template = certificate(authority.issue("silo-001").certificate)
    builder = x509.CertificateBuilder(own.subject, template.subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + LIFE)
    for extension in template.extensions:
        if extension.oid != x509.AuthorityKeyIdentifier.oid:
            builder = builder.add_extension(extension.value, extension.critical)
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    forged = builder.add_extension(aki, critical=False).sign(key, SHA256())
    with pytest.raises(VerificationError):
        policy(authority).build_client_verifier().verify(forged, [own])


def test_every_certificate_has_its_own_key_and_serial_number(authority: Authority) -> None:
    pems = [authority.issue("silo-007") for _ in range(3)]
    certificates = [certificate(authority.certificate), *(certificate(issued.certificate) for issued in pems)]
    assert len({c.serial_number for c in certificates}) == 4
    assert len({public_key(c) for c in certificates}) == 4
    for issued in pems:
        key = load_pem_private_key(issued.private_key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == certificate(issued.certificate).public_key()


def test_no_repr_shows_a_key(authority: Authority) -> None:
    issued = authority.issue("silo-007")
    assert repr(issued) == str(issued) == f"{issued}" == "Certified(...)"
    signing = signing_keys(1)["silo-000"]
    for value in (authority, signing, SealingKey.generate(Suite.DEFAULT)):
        assert repr(value) == object.__repr__(value)  # a type and an address
    assert signing.to_bytes().hex() not in repr(vars(signing))


# OpenSSL's, over a connection in memory.


class Link:
    """Both ends of a TLS connection without a socket."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(down, up, server_hostname=host)
        self.server = server.wrap_bio(up, down, server_side=True)

    def shake_hands(self) -> None:
        for _ in range(10):
            for end in (self.client, self.server):
                self._step(end.do_handshake)
        assert self.client.version() == self.server.version() == "TLSv1.3"
        self.client.write(b"words")
        assert self.server.read() == b"words"  # in TLS 1.3 a refused client certificate shows here at the latest

    @staticmethod
    def _step(action: Callable[[], None]) -> None:
        with suppress(ssl.SSLWantReadError):
            action()


@pytest.fixture
def contexts(tmp_path: Path) -> Callable[..., tuple[ssl.SSLContext, ssl.SSLContext]]:
    def make(
        client_trusts: Authority, server_trusts: Authority, client: Certified | None, server: Certified
    ) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        made: list[ssl.SSLContext] = []
        for purpose, trusted, own in (
            (ssl.PROTOCOL_TLS_CLIENT, client_trusts, client),
            (ssl.PROTOCOL_TLS_SERVER, server_trusts, server),
        ):
            context = ssl.SSLContext(purpose)
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            context.load_verify_locations(cadata=trusted.certificate.decode())
            if own is not None:
                chain, key = tmp_path / f"{len(made)}.crt", tmp_path / f"{len(made)}.key"
                chain.write_bytes(own.certificate)
                key.write_bytes(own.private_key)
                context.load_cert_chain(chain, key)
            made.append(context)
        return made[0], made[1]

    return make


Contexts = Callable[..., tuple[ssl.SSLContext, ssl.SSLContext]]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_openssl_accepts_both_ends(authority: Authority, contexts: Contexts, host: str) -> None:
    silo, aggregator = authority.issue("silo-007"), authority.issue("aggregator", ("localhost", "127.0.0.1"))
    link = Link(*contexts(authority, authority, silo, aggregator), host)
    link.shake_hands()
    peer = link.server.getpeercert()
    assert peer is not None
    assert peer["subject"] == ((("commonName", "silo-007"),),)
    assert peer["subjectAltName"] == (("DNS", "silo-007"),)


def test_openssl_refuses_another_host(authority: Authority, contexts: Contexts) -> None:
    silo, aggregator = authority.issue("silo-007"), authority.issue("aggregator", ("localhost",))
    for host in ("aggregator", "127.0.0.1"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            Link(*contexts(authority, authority, silo, aggregator), host).shake_hands()


def test_openssl_refuses_strangers_and_the_nameless(authority: Authority, contexts: Contexts) -> None:
    stranger = Authority("test run", NOW, LIFE)
    silo, aggregator = authority.issue("silo-007"), authority.issue("aggregator", ("localhost",))
    with pytest.raises(ssl.SSLCertVerificationError):
        Link(*contexts(stranger, authority, silo, aggregator), "localhost").shake_hands()
    with pytest.raises(ssl.SSLError):
        Link(*contexts(authority, stranger, silo, aggregator), "localhost").shake_hands()
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        Link(*contexts(authority, authority, None, aggregator), "localhost").shake_hands()


def test_openssl_holds_each_end_to_its_role(authority: Authority, contexts: Contexts) -> None:
    silo, aggregator = authority.issue("localhost"), authority.issue("aggregator", ("localhost",))
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        Link(*contexts(authority, authority, silo, silo), "localhost").shake_hands()
    with pytest.raises(ssl.SSLError, match=r"(?i)purpose|verify"):
        Link(*contexts(authority, authority, aggregator, aggregator), "localhost").shake_hands()


def test_openssl_refuses_what_has_expired(contexts: Contexts) -> None:
    past = Authority("test run", NOW - 2 * LIFE, LIFE)
    silo, aggregator = past.issue("silo-007"), past.issue("aggregator", ("localhost",))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        Link(*contexts(past, past, silo, aggregator), "localhost").shake_hands()


def test_own_files_are_checked_before_they_are_used() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    authority = Authority("authority", start, timedelta(days=30))
    one, other = authority.issue("silo-a"), authority.issue("silo-b")
    check_certificates(one.certificate, start)
    check_certificates(one.certificate + authority.certificate, start + timedelta(days=30))
    check_key_pair(one.private_key, one.certificate)
    check_subject(one.certificate + other.certificate, "silo-a")
    with pytest.raises(IdentityError, match="is for silo-b, not for silo-a"):
        check_subject(other.certificate + one.certificate, "silo-a")
    for now in (start - timedelta(minutes=61), start + timedelta(days=31)):
        clock = f"2025-12-31 23:00 to 2026-01-31 00:00 UTC, and this machine's clock says {now:%Y-%m-%d %H:%M}"
        with pytest.raises(IdentityError, match=clock):
            check_certificates(one.certificate, now)
    for pem in (b"", b"\n", one.private_key, one.certificate[:200]):
        with pytest.raises(IdentityError, match="holds no PEM certificate"):
            check_certificates(pem, start)
    for pem in (b"", one.certificate, one.private_key[:100], ENCRYPTED):
        with pytest.raises(IdentityError, match="holds no unencrypted PEM private key"):
            check_key_pair(pem, one.certificate)
    with pytest.raises(IdentityError, match="is not the private key of the certificate"):
        check_key_pair(other.private_key, one.certificate)


ENCRYPTED = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"locked")
)


# What others encoded


def pem(der: bytes, kind: str) -> bytes:
    return f"-----BEGIN {kind}-----\n{b64encode(der).decode()}\n-----END {kind}-----\n".encode()


def altered(der: bytes) -> Iterator[bytes]:
    """With each byte in turn another one: versions, keys, names, times and extensions of no known kind among them."""
    for at, byte in enumerate(der):
        for other in {0, 2, 255, byte ^ 1, byte ^ 4, (byte + 1) % 256} - {byte}:
            yield der[:at] + bytes([other]) + der[at + 1 :]


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_certificate_with_any_byte_altered_is_read_or_refused(authority: Authority) -> None:
    issued = authority.issue("silo-007", ("localhost", "::1"))
    ways: tuple[Callable[[bytes], object], ...] = (
        *(read_peers, hosts_of, lambda shown: check_certificates(shown, NOW)),
        lambda shown: check_subject(shown, "silo-007"),
        lambda shown: check_key_pair(issued.private_key, shown),
        lambda shown: Authority.load(Certified(shown, issued.private_key)),
    )
    refused = 0
    for der in altered(certificate(issued.certificate).public_bytes(Encoding.DER)):
        for way in ways:
            try:
                way(pem(der, "CERTIFICATE"))
            except IdentityError:
                refused += 1
    assert refused > 1000


def test_a_request_with_any_byte_altered_is_refused_or_means_the_same(authority: Authority) -> None:
    asked = x509.load_pem_x509_csr(certificate_request("silo-007")[0])
    issued = 0
    for other in altered(asked.public_bytes(Encoding.DER)):
        with suppress(IdentityError):
            pem_issued = authority.certify(pem(other, "CERTIFICATE REQUEST"), "silo-007", NOW, LIFE)
            assert certificate(pem_issued).public_key() == asked.public_key()
            issued += 1
    assert issued < 20


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        (rsa.generate_private_key(65537, 2048), SHA256()),
        (ed25519.Ed25519PrivateKey.generate(), None),
        (ec.generate_private_key(ec.SECP256K1()), SHA256()),
        (ec.generate_private_key(ec.BrainpoolP256R1()), SHA256()),
    ],
    ids=["rsa", "ed25519", "secp256k1", "brainpool"],
)
def test_a_request_with_a_key_that_nobody_here_uses(authority: Authority, key: Any, digest: SHA256 | None) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    with pytest.raises(IdentityError, match="is no certificate request that a key on P-256, P-384 or P-521 has signed"):
        authority.certify(builder.sign(key, digest).public_bytes(Encoding.PEM), "silo-007", NOW, LIFE)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_request_with_a_key_that_tls_knows(authority: Authority, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    issued = authority.certify(request.public_bytes(Encoding.PEM), "silo-007", NOW, LIFE)
    assert certificate(issued).public_key() == key.public_key()
    assert read_peer(issued).name == "silo-007"
    assert (read_peer(issued).issuer, hosts_of(issued)) == ("test run", ["silo-007"])
