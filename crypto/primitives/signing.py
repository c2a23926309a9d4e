"""Ed25519 signatures (RFC 8032) bound to a context: one made for a purpose is worth nothing for another."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.errors import BadSignature, IdentityError
from crypto.names import PROTOCOL

PRIVATE_KEY_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_DOMAIN: Final = f"{PROTOCOL} signature".encode()


class SigningKey:
    """A silo's or aggregator's long-lived private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key: Final = key
        self.public_bytes: Final = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a fresh key with the library's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, secret: bytes) -> "SigningKey":
        """Return the key that `to_bytes` gave away. Raises IdentityError unless `secret` is 32 bytes."""
        if len(secret) != PRIVATE_KEY_BYTES:
            raise IdentityError(f"a signing key is {PRIVATE_KEY_BYTES} bytes, not {len(secret)}")
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    def to_bytes(self) -> bytes:
        """Return the secret 32 bytes, to be kept where only their owner reads."""
        return self._key.private_bytes_raw()

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Return the 64-byte signature of `message` for the purpose `context` (at most 65 535 bytes)."""
        return self._key.sign(_signed_bytes(context, message))


def verify(public: bytes, signature: bytes, context: bytes, message: bytes, *, party: str) -> None:
    """Return if `signature` is `public`'s of `message` for the purpose `context`; raise BadSignature if not.

    A malformed public key or signature is a bad signature too. `party` is the signer's name in the message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed_bytes(context, message))
    except (InvalidSignature, ValueError):
        raise BadSignature("a signature does not verify under its key", party=party) from None


def _signed_bytes(context: bytes, message: bytes) -> bytes:
    # The length says where the context ends: no other (context, message) gives the same bytes.
    return _DOMAIN + len(context).to_bytes(2, "little") + context + message
