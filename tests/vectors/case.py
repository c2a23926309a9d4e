"""What every maker of cases needs: one form of a case, entropy from labels, and keys of both suites."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crypto.names import Suite
from crypto.primitives.sealed import SealingKey
from crypto.primitives.signing import SigningKey, private_key_bytes

HERE: Final = Path(__file__).parent
SILOS: Final = ("alder", "birch-10", "birch-2", "cedar")  # in byte order, which is not the order of the numbers
P384_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973

Fields = dict[str, Any]
Case = tuple[str, Fields]
Cases = Iterator[Case]


def case(name: str, description: str, *clause: str, **fields: Any) -> Case:
    return name, {"description": description, "clause": list(clause), **plain(fields)}


def plain(value: Any) -> Any:
    """As JSON has it: bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def kept(name: str, field: str, renew: bool) -> bytes:
    """What a file holds already; empty where there is none or it is to be made anew."""
    path = HERE / f"{name}.json"
    return b"" if renew or not path.exists() else bytes.fromhex(json.loads(path.read_bytes())[field])


def entropy(label: str, size: int) -> bytes:
    return hashlib.shake_256(b"sparsilo vectors " + label.encode()).digest(size)


def altered(data: bytes, at: int) -> bytes:
    """One bit of the byte at `at` is another."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def signing_secret(suite: Suite, label: str) -> bytes:
    """A private key; of P-384 a number below the order."""
    secret = entropy(label, private_key_bytes(suite))
    return secret if suite is Suite.DEFAULT else (int.from_bytes(secret, "big") % P384_ORDER).to_bytes(48, "big")


def signing_key(suite: Suite, label: str) -> SigningKey:
    return SigningKey.from_bytes(signing_secret(suite, label), suite)


def p384_key(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP384R1())


def sealing_key(suite: Suite, label: str) -> tuple[SealingKey, Fields]:
    """A key and its private bytes: the seed of ML-KEM (FIPS 203, d || z), and the curve's private key."""
    seed = entropy(f"{label} ml-kem", 64)
    if suite is Suite.DEFAULT:
        scalar = entropy(f"{label} x25519", 32)
        small, x25519 = MLKEM768PrivateKey.from_seed_bytes(seed), X25519PrivateKey.from_private_bytes(scalar)
        public = small.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return SealingKey(suite, hpke.MLKEM768X25519PrivateKey(small, x25519), public), {
            "ml_kem": seed,
            "x25519": scalar,
        }
    scalar = signing_secret(suite, f"{label} p384")
    large, p384 = MLKEM1024PrivateKey.from_seed_bytes(seed), p384_key(scalar)
    point = p384.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    public = large.public_key().public_bytes_raw() + point
    return SealingKey(suite, hpke.MLKEM1024P384PrivateKey(large, p384), public), {"ml_kem": seed, "p384": scalar}
