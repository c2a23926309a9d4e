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


def sign_enrolment(key: SigningKey, silo: str, request: bytes) -> bytes:
    """Return a silo's first signature: "this key is `silo`'s, `request` its certificate request" (PEM, or empty)."""
    return key.sign(_ENROLMENT, _claim(silo, request))


def check_enrolment(suite: Suite, public: bytes, silo: str, request: bytes, signature: bytes) -> None:
    """Return if whoever enrols as `silo` holds the key that it names; raise BadSignature if not."""
    verify(suite, public, signature, _ENROLMENT, _claim(silo, request), party=silo)


def _claim(silo: str, request: bytes) -> bytes:
    return sha256(silo.encode()).digest() + sha256(request).digest()
