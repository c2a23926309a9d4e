"""Sealed messages: HPKE single-shot (RFC 9180) with ML-KEM and an elliptic curve, HKDF and AES-256-GCM.

The hybrids are X-Wing and MLKEM1024-P384 of draft-ietf-hpke-pq. The library's interface takes no additional data: the
whole context goes into `info`, which HPKE's key schedule binds into the key (section 8.1), so a message opens only
under the same context. A seal hides and protects a message but does not say who sent it; a signature does. Keys and
encapsulations use the library's randomness.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crypto.errors import BadSeal
from crypto.names import Suite


class _MlKem768X25519:
    hpke_suite: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    mlkem_bytes, point_bytes = 1184, 32
    overhead = 1088 + 32 + 16

    @staticmethod
    def generate() -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return hpke.MLKEM768X25519PrivateKey(mlkem, x25519), public

    @staticmethod
    def load(mlkem: bytes, point: bytes) -> hpke.MLKEM768X25519PublicKey:
        return hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(mlkem), X25519PublicKey.from_public_bytes(point)
        )


class _MlKem1024P384:
    hpke_suite: Final = hpke.Suite(hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM)
    mlkem_bytes, point_bytes = 1568, 97
    overhead = 1568 + 97 + 16

    @staticmethod
    def generate() -> tuple[hpke.MLKEM1024P384PrivateKey, bytes]:
        mlkem, p384 = MLKEM1024PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
        point = p384.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return hpke.MLKEM1024P384PrivateKey(mlkem, p384), mlkem.public_key().public_bytes_raw() + point

    @staticmethod
    def load(mlkem: bytes, point: bytes) -> hpke.MLKEM1024P384PublicKey:
        if not point.startswith(b"\x04"):
            raise ValueError("the library would take a compressed point too")
        return hpke.MLKEM1024P384PublicKey(
            MLKEM1024PublicKey.from_public_bytes(mlkem),
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point),
        )


_KEMS: Final[dict[Suite, type[_MlKem768X25519 | _MlKem1024P384]]] = {
    Suite.DEFAULT: _MlKem768X25519,
    Suite.FIPS: _MlKem1024P384,
}


def public_bytes(suite: Suite) -> int:
    """Return the length of a public sealing key: ML-KEM key, then X25519 or uncompressed P-384 point; 1216 or 1665."""
    return _KEMS[suite].mlkem_bytes + _KEMS[suite].point_bytes


def seal_overhead(suite: Suite) -> int:
    """Return how much longer than its text a sealed message is: ML-KEM ciphertext, point, GCM tag; 1136 or 1681."""
    return _KEMS[suite].overhead


class SealingKey:
    """One round's private key: opens what others sealed to its public bytes. It is never written down."""

    def __init__(
        self, suite: Suite, key: hpke.MLKEM768X25519PrivateKey | hpke.MLKEM1024P384PrivateKey, public: bytes
    ) -> None:
        self.suite: Final = suite
        self.public_bytes: Final = public
        self._key: Final = key

    @classmethod
    def generate(cls, suite: Suite) -> "SealingKey":
        """Make a fresh key."""
        return cls(suite, *_KEMS[suite].generate())

    def open(self, sealed: bytes, info: bytes, *, party: str = "") -> bytes:
        """Return the text of `sealed`. Raises BadSeal for another key, another `info`, or altered bytes.

        `party` is the sender's name in the message, who need not be at fault: the aggregator carried it.
        """
        try:
            return _KEMS[self.suite].hpke_suite.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError):
            raise BadSeal("a sealed message does not open under this key and context", party=party) from None


def seal(suite: Suite, public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal `plaintext` to the holder of `public` under the context `info`.

    Raises BadSeal for a malformed public key (wrong length, ML-KEM values out of range, X25519 point of low order,
    P-384 point off the curve).
    """
    kem = _KEMS[suite]
    try:
        key = kem.load(public[: kem.mlkem_bytes], public[kem.mlkem_bytes :])
        return kem.hpke_suite.encrypt(plaintext, key, info=info)
    except ValueError:
        raise BadSeal("a sealing key is malformed") from None


def check_public(suite: Suite, public: bytes, *, party: str) -> None:
    """Return if anyone can seal to `public`; raise BadSeal naming `party` if not."""
    try:
        seal(suite, public, b"", b"")  # an X25519 point of low order shows only when it is used
    except BadSeal:
        raise BadSeal("its sealing key is malformed", party=party) from None
