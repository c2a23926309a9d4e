"""The roster: which silos, and their public signing keys; what it is called by, and what its members sign.

Every silo pins one, and a plan with another is refused (docs/protocol.md, 2.3). Its fingerprint is what people compare
over another channel than the aggregator: SHA-256 of the file that every silo pins, byte for byte.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from crypto.names import Suite
from crypto.primitives.signing import SigningKey, verify

_CONTEXT: Final = b"roster"
_ENROLMENT: Final = b"enrolment"
_CERTIFICATE_KEY: Final = b"certificate key"


def roster_file(roster: Mapping[str, bytes]) -> bytes:
    """Write a roster down in the one way: YAML, a quoted `name: key in hex` a line, ascending by name."""
    return "".join(f'"{silo}": "{key.hex()}"\n' for silo, key in sorted(roster.items())).encode()


def fingerprint(roster: Mapping[str, bytes]) -> bytes:
    """Return the SHA-256 of `roster_file`, 32 bytes."""
    return sha256(roster_file(roster)).digest()


def sign_roster(key: SigningKey, roster: Mapping[str, bytes]) -> bytes:
    """Return a member's signature: "this is the roster that I pinned"."""
    return key.sign(_CONTEXT, fingerprint(roster))


def check_signature(suite: Suite, roster: Mapping[str, bytes], silo: str, signature: bytes) -> None:
    """Return if `silo`, a member, signed `roster`; raise BadSignature if not."""
    verify(suite, roster[silo], signature, _CONTEXT, fingerprint(roster), party=silo)


def sign_enrolment(key: SigningKey, silo: str, request: bytes, certificate_key: bytes) -> bytes:
    """Return a silo's first signature: "this key is `silo`'s, and so is what it will call with".

    That is the certificate for `request` (PEM), or one of its own, whose key has the SHA-256 `certificate_key`; the
    other is empty.
    """
    return key.sign(_ENROLMENT, _claim(silo, request, certificate_key))


def check_enrolment(
    suite: Suite, public: bytes, silo: str, request: bytes, certificate_key: bytes, signature: bytes
) -> None:
    """Return if whoever enrols as `silo` holds the key that it names; raise BadSignature if not."""
    verify(suite, public, signature, _ENROLMENT, _claim(silo, request, certificate_key), party=silo)


def sign_certificate_key(key: SigningKey, silo: str, certificate_key: bytes) -> bytes:
    """Return a member's signature: "`silo` calls with a certificate of this key (SHA-256), and no other"."""
    return key.sign(_CERTIFICATE_KEY, _claim(silo, certificate_key))


def check_certificate_key(suite: Suite, public: bytes, silo: str, certificate_key: bytes, signature: bytes) -> None:
    """Return if `silo`, whose signing key is `public`, calls with that key; raise BadSignature if not."""
    verify(suite, public, signature, _CERTIFICATE_KEY, _claim(silo, certificate_key), party=silo)


def _claim(silo: str, *claimed: bytes) -> bytes:
    return b"".join(sha256(field).digest() for field in (silo.encode(), *claimed))
