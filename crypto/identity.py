"""Who a party is on the network: X.509 certificates for mTLS, made and read here, values in and values out.

A silo's long-lived signing key (crypto/primitives/signing) is separate: TLS protects a connection, a signature
outlives it. TLS uses ECDSA P-256, which every TLS library accepts. Certificates are checked by the TLS library, not
here. Whatever others encoded is parsed here and nowhere else, because the library parses late and raises many errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crypto.errors import IdentityError

CLOCK_MARGIN: Final = timedelta(hours=1)
"""How long before it is issued a certificate begins to hold: by so much may two parties' clocks differ."""
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)  # the ones that TLS libraries know
_UNREADABLE: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),  # TypeError: a private key is encrypted, or a name is no text
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What the library raises over the encodings of others, now or when a part of them is asked for."""
INVITATION: Final = "invitation"
"""Organizational unit of an invitation's certificate."""


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key, PEM. The repr shows neither."""

    certificate: bytes
    private_key: bytes

    def __repr__(self) -> str:
        return "Certified(...)"


@dataclass(frozen=True)
class Peer:
    """What a certificate says of whoever shows it."""

    name: str
    """Its one common name; empty where there is none, or are several."""
    subject: str
    """Whom it is for, for people: its common names, or else all that it says of its subject."""
    issuer: str
    """Who issued it, for people, in the same way."""
    invitation: bool
    """Whether it stands for an invitation to enrol, and for nothing else."""
    serial: int
    key: bytes
    """SHA-256 of its public key (SubjectPublicKeyInfo, DER): what stays the same when a certificate is issued anew."""
    start: datetime
    end: datetime


class Authority:
    """A certificate authority. What it issues holds from `now` for `lifetime`, as the authority itself where neither is
    given, and never longer than that.
    """

    def __init__(self, name: str, now: datetime, lifetime: timedelta) -> None:
        self._key: ec.EllipticCurvePrivateKey = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._now, self._end = now, now + lifetime
        key_usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._builder(self._name, self._key.public_key(), now, lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage, critical=True)
            .sign(self._key, SHA256())
        )
        self.certificate: bytes = certificate.public_bytes(Encoding.PEM)

    @classmethod
    def load(cls, own: Certified) -> "Authority":
        """Return the authority that `own` was of. Raises IdentityError where that is none's key and certificate."""
        check_key_pair(own.private_key, own.certificate)
        certificate, key = _certificates(own.certificate)[0], load_pem_private_key(own.private_key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise IdentityError("is not an authority's key")
        loaded = cls.__new__(cls)
        loaded._key, loaded._name, loaded.certificate = key, certificate.subject, own.certificate
        loaded._now, loaded._end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return loaded

    @property
    def own(self) -> Certified:
        """Its certificate and private key, to be kept where only the aggregator reads."""
        return Certified(self.certificate, _private_pem(self._key))

    def issue(
        self,
        name: str,
        hosts: tuple[str, ...] = (),
        *,
        now: datetime | None = None,
        lifetime: timedelta | None = None,
        invitation: bool = False,
    ) -> Certified:
        """Issue a client certificate for `name`; with `hosts` (DNS names or addresses) a server certificate; with
        `invitation` one that is good for enrolling only.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name, INVITATION if invitation else "")
        return Certified(self._certify(subject, key.public_key(), hosts, now, lifetime), _private_pem(key))

    def certify(self, request: bytes, name: str, now: datetime, lifetime: timedelta) -> bytes:
        """Return a client certificate (PEM) for `name` and a PEM certificate request's key, whatever else it asks for.

        Raises IdentityError where the request is malformed or not signed with its key.
        """
        with _parsing("is no certificate request"):
            asked = x509.load_pem_x509_csr(request)
            key, is_signed = asked.public_key(), asked.is_signature_valid
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES) or not is_signed:
            raise IdentityError("is no certificate request that a key on P-256, P-384 or P-521 has signed")
        return self._certify(_name(name), key, (), now, lifetime)

    def _certify(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        hosts: tuple[str, ...],
        now: datetime | None,
        lifetime: timedelta | None,
    ) -> bytes:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        [common_name] = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        named = [_host(host) for host in hosts or (str(common_name.value),)]
        certificate = (
            self._builder(subject, key, now or self._now, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(named), critical=False)
            .sign(self._key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta | None
    ) -> x509.CertificateBuilder:
        end = self._end if lifetime is None else min(self._end, now + lifetime)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_MARGIN)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def certificate_request(name: str) -> tuple[bytes, bytes]:
    """Return a PEM certificate request for `name`, and the new private key (PEM) that it is signed with."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM), _private_pem(key)


def read_peer(pem: bytes) -> Peer:
    """Return what the first certificate of `pem` says. Raises IdentityError where there is none to read."""
    return read_peers(pem)[0]


def read_peers(pem: bytes) -> list[Peer]:
    """Return what each certificate of `pem` says. Raises IdentityError where there is none, or one cannot be read."""
    certificates = _certificates(pem)
    with _parsing("holds a certificate whose key, names or times are of an unknown kind"):
        return [_peer(certificate) for certificate in certificates]


def hosts_of(pem: bytes) -> list[str]:
    """Return the hosts that the first certificate of `pem` is for. Raises IdentityError where it cannot be read."""
    certificate = _certificates(pem)[0]
    with _parsing("holds a certificate whose extensions cannot be read"):
        values = [extension.value for extension in certificate.extensions]
    return [str(host.value) for value in values if isinstance(value, x509.SubjectAlternativeName) for host in value]


def _peer(certificate: x509.Certificate) -> Peer:
    names, units = (
        [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    )
    return Peer(
        names[0] if len(names) == 1 else "",
        _for_people(certificate.subject),
        _for_people(certificate.issuer),
        INVITATION in units,
        certificate.serial_number,
        _key_digest(certificate.public_key()),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _for_people(name: x509.Name) -> str:
    """Return a name's common names, or all of it where it has none."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return " and ".join(str(attribute.value) for attribute in common) or name.rfc4514_string()


def _key_digest(key: PublicKeyTypes) -> bytes:
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(common_name: str, unit: str = "") -> x509.Name:
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)] if unit else []
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def check_certificates(pem: bytes, now: datetime) -> None:
    """Return if `pem` holds certificates and the first is valid at `now`; raise IdentityError saying what is wrong."""
    first = read_peer(pem)
    if not first.start <= now <= first.end:
        raise IdentityError(
            f"is valid from {first.start:%Y-%m-%d %H:%M} to {first.end:%Y-%m-%d %H:%M} UTC, "
            f"and this machine's clock says {now:%Y-%m-%d %H:%M}",
            hint="where the clock is right: ask for a new certificate; where it begins too late, the clock of whoever "
            "issued it is ahead",
        )


def check_subject(pem: bytes, name: str) -> None:
    """Return if the first certificate's common name is `name`; raise IdentityError saying whose it is."""
    first = read_peer(pem)
    if first.name != name:
        raise IdentityError(f"is for {first.subject or 'nobody'}, not for {name}", hint="silo in the config")


def check_key_pair(private_key: bytes, certificate: bytes) -> None:
    """Return if the PEM private key is the certificate's; raise IdentityError saying what is wrong."""
    with _parsing("holds no unencrypted PEM private key"):
        key = _key_digest(load_pem_private_key(private_key, password=None).public_key())
    if key != read_peer(certificate).key:
        raise IdentityError("is not the private key of the certificate")


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """Return one certificate or more, whose parts may still turn out to be unreadable. Raises IdentityError."""
    with _parsing("holds no PEM certificate"):
        return x509.load_pem_x509_certificates(pem)


@contextmanager
def _parsing(problem: str) -> Iterator[None]:
    """Raise IdentityError that says `problem` where the library cannot read what somebody else encoded."""
    try:
        yield
    except _UNREADABLE:
        raise IdentityError(problem) from None
