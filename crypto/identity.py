"""Who a party is on the network: X.509 certificates for mTLS, made and read here, values in and values out.

A silo's long-lived signing key (crypto/primitives/signing) is separate: TLS protects a connection, a signature
outlives it. TLS uses ECDSA P-256, which every TLS library accepts. Certificates are checked by the TLS library, not
here.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crypto.errors import IdentityError

CLOCK_SKEW: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key, PEM. The repr shows neither."""

    certificate: bytes
    private_key: bytes

    def __repr__(self) -> str:
        return "Certified(...)"


class Authority:
    """A certificate authority that lives as long as this object; for `aggregator local` and tests."""

    def __init__(self, name: str, now: datetime, lifetime: timedelta) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
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
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage, critical=True)
            .sign(self._key, SHA256())
        )
        self.certificate: bytes = certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str, hosts: tuple[str, ...] = ()) -> Certified:
        """A client certificate for `name`; with `hosts` (DNS names or addresses) a server certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = (
            self._builder(_name(name), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts or (name,)]), critical=False)
            .sign(self._key, SHA256())
        )
        private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Certified(certificate.public_bytes(Encoding.PEM), private_key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - CLOCK_SKEW)
            .not_valid_after(self._end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def check_certificates(pem: bytes, now: datetime) -> None:
    """Return if `pem` holds certificates and the first is valid at `now`; raise IdentityError saying what is wrong."""
    first = _first(pem)
    start, end = first.not_valid_before_utc, first.not_valid_after_utc
    if not start <= now <= end:
        raise IdentityError(
            f"is valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC",
            hint="ask for a new certificate, or set the clock",
        )


def check_subject(pem: bytes, name: str) -> None:
    """Return if the first certificate's common name is `name`; raise IdentityError saying whose it is."""
    names = [str(each.value) for each in _first(pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [name]:
        raise IdentityError(f"is for {' and '.join(names) or 'nobody'}, not for {name}", hint="silo in the config")


def check_key_pair(private_key: bytes, certificate: bytes) -> None:
    """Return if the PEM private key is the certificate's; raise IdentityError saying what is wrong."""
    try:
        key = load_pem_private_key(private_key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise IdentityError("holds no unencrypted PEM private key") from None
    if key.public_key() != _first(certificate).public_key():
        raise IdentityError("is not the private key of the certificate")


def _first(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise IdentityError("holds no PEM certificate") from None
