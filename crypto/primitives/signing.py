"""Signatures bound to a context: one made for a purpose is worth nothing for another.

Ed25519 (RFC 8032), or ECDSA over P-384 with SHA-384 (FIPS 186-5, section 6) and the nonce of RFC 6979. Both sign the
same message to the same bytes, and no second form of a signature verifies.
"""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crypto.errors import BadSignature, IdentityError
from crypto.names import PROTOCOL, Suite

_DOMAIN: Final = f"{PROTOCOL} signature".encode()


class _Ed25519:
    private_bytes, public_bytes, signature_bytes = 32, 32, 64

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key: Final = key

    @classmethod
    def generate(cls) -> "_Ed25519":
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, secret: bytes) -> "_Ed25519":
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    def secret(self) -> bytes:
        return self._key.private_bytes_raw()

    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    @classmethod
    def load_public(cls, public: bytes) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(public)  # under 32 bytes that are no point nothing verifies

    @classmethod
    def verify(cls, public: bytes, signature: bytes, data: bytes) -> None:
        cls.load_public(public).verify(signature, data)


class _EcdsaP384:
    private_bytes, public_bytes, signature_bytes = 48, 49, 96
    _order: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key: Final = key

    @classmethod
    def generate(cls) -> "_EcdsaP384":
        return cls(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def load(cls, secret: bytes) -> "_EcdsaP384":
        return cls(ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP384R1()))

    def secret(self) -> bytes:
        return self._key.private_numbers().private_value.to_bytes(self.private_bytes, "big")

    def public(self) -> bytes:
        return self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(SHA384(), deterministic_signing=True)))
        return r.to_bytes(48, "big") + min(s, self._order - s).to_bytes(48, "big")

    @classmethod
    def load_public(cls, public: bytes) -> ec.EllipticCurvePublicKey:
        if len(public) != cls.public_bytes:
            raise ValueError("not a compressed point")
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public)

    @classmethod
    def verify(cls, public: bytes, signature: bytes, data: bytes) -> None:
        r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
        # Whoever sees (r, s) can make (r, order - s), which ECDSA accepts as well: only the lower is a signature here.
        if len(signature) != cls.signature_bytes or not (0 < r < cls._order and 0 < s <= cls._order // 2):
            raise InvalidSignature
        cls.load_public(public).verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA384()))


_ALGORITHMS: Final[dict[Suite, type[_Ed25519 | _EcdsaP384]]] = {Suite.DEFAULT: _Ed25519, Suite.FIPS: _EcdsaP384}


def public_key_bytes(suite: Suite) -> int:
    """Return the length of a public key: 32, or 49 for a compressed point (SEC 1, section 2.3.3)."""
    return _ALGORITHMS[suite].public_bytes


def private_key_bytes(suite: Suite) -> int:
    """Return the length of a private key: 32, or 48 for a scalar, big-endian."""
    return _ALGORITHMS[suite].private_bytes


def signature_bytes(suite: Suite) -> int:
    """Return the length of a signature: 64, or 96 for r || s, 48 bytes big-endian each (DER's length varies)."""
    return _ALGORITHMS[suite].signature_bytes


class SigningKey:
    """A silo's or aggregator's long-lived private key."""

    def __init__(self, suite: Suite, key: _Ed25519 | _EcdsaP384) -> None:
        self.suite: Final = suite
        self._key: Final = key
        self.public_bytes: Final = key.public()

    @classmethod
    def generate(cls, suite: Suite) -> "SigningKey":
        """Make a fresh key with the library's randomness."""
        return cls(suite, _ALGORITHMS[suite].generate())

    @classmethod
    def from_bytes(cls, secret: bytes, suite: Suite) -> "SigningKey":
        """Return the key that `to_bytes` gave away. Raises IdentityError for a wrong length or scalar out of range."""
        if len(secret) != private_key_bytes(suite):
            raise IdentityError(f"a signing key is {private_key_bytes(suite)} bytes, not {len(secret)}")
        try:
            return cls(suite, _ALGORITHMS[suite].load(secret))
        except ValueError:
            raise IdentityError("a signing key is out of range") from None

    def to_bytes(self) -> bytes:
        """Return the secret, `private_key_bytes` long, to be kept where only its owner reads."""
        return self._key.secret()

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Return the signature of `message` for the purpose `context` (at most 65 535 bytes)."""
        return self._key.sign(_signed_bytes(context, message))


def verify(suite: Suite, public: bytes, signature: bytes, context: bytes, message: bytes, *, party: str) -> None:
    """Return if `signature` is `public`'s of `message` for the purpose `context`; raise BadSignature if not.

    A malformed public key or signature is a bad signature too. `party` is the signer's name in the message.
    """
    try:
        _ALGORITHMS[suite].verify(public, signature, _signed_bytes(context, message))
    except (InvalidSignature, ValueError):
        raise BadSignature("a signature does not verify under its key", party=party) from None


def check_public_key(suite: Suite, public: bytes) -> None:
    """Raise IdentityError unless `public` is as long as the suite's keys, and on P-384 a point of the curve."""
    try:
        _ALGORITHMS[suite].load_public(public)
    except ValueError:
        size = public_key_bytes(suite)
        raise IdentityError(
            f"a public signing key of {len(public)} bytes is not one of {size} bytes"
            if len(public) != size
            else "a public signing key is not a point of the curve"
        ) from None


def _signed_bytes(context: bytes, message: bytes) -> bytes:
    # The length says where the context ends: no other (context, message) gives the same bytes.
    return _DOMAIN + len(context).to_bytes(2, "little") + context + message
