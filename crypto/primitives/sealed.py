"""Sealed messages: HPKE single-shot (RFC 9180) with ML-KEM-768 and X25519, HKDF-SHA256 and AES-256-GCM.

The library's interface takes no additional data: the whole context goes into `info`, which HPKE's key schedule binds
into the key (section 8.1), so a message opens only under the same context. A seal hides and protects a message but
does not say who sent it; a signature does. Keys and encapsulations use the library's randomness.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from crypto.errors import BadSeal

_MLKEM_PUBLIC_BYTES: Final = 1184
PUBLIC_BYTES: Final = _MLKEM_PUBLIC_BYTES + 32
SEAL_OVERHEAD: Final = 1088 + 32 + 16
"""Bytes that a sealed message is longer than its text: ML-KEM ciphertext, X25519 share, GCM tag."""

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingKey:
    """One round's private key: opens what others sealed to its public bytes. It is never written down."""

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self.public_bytes: Final = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        self._key: Final = MLKEM768X25519PrivateKey(mlkem, x25519)

    @classmethod
    def generate(cls) -> "SealingKey":
        """Make a fresh key."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    def open(self, sealed: bytes, info: bytes, *, party: str = "") -> bytes:
        """Return the text of `sealed`. Raises BadSeal for another key, another `info`, or altered bytes.

        `party` is the sender's name in the message, who need not be at fault: the aggregator carried it.
        """
        try:
            return _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError):
            raise BadSeal("a sealed message does not open under this key and context", party=party) from None


def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal `plaintext` to the holder of `public` (PUBLIC_BYTES long) under the context `info`.

    Raises BadSeal for a malformed public key (wrong length, ML-KEM values out of range, X25519 point of low order).
    """
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:])
        return _SUITE.encrypt(plaintext, MLKEM768X25519PublicKey(mlkem, x25519), info=info)
    except ValueError:
        raise BadSeal("a sealing key is malformed") from None


def check_public(public: bytes, *, party: str) -> None:
    """Return if anyone can seal to `public`; raise BadSeal naming `party` if not."""
    try:
        seal(public, b"", b"")  # a point of low order shows only when it is used
    except BadSeal:
        raise BadSeal("its sealing key is malformed", party=party) from None
