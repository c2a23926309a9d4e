"""Sealed messages: they open for their receiver in their context, and for nothing else."""

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import BadSeal
from crypto.primitives.sealed import PUBLIC_BYTES, SEAL_OVERHEAD, SealingKey, check_public, seal

KEY, OTHER = SealingKey.generate(), SealingKey.generate()
SEALED = seal(KEY.public_bytes, b"share", b"context")


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=500), st.binary(max_size=200))
def test_a_seal_opens_under_its_key_and_context(plaintext: bytes, info: bytes) -> None:
    sealed = seal(KEY.public_bytes, plaintext, info)
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD
    assert KEY.open(sealed, info) == plaintext
    for key, context in ((OTHER, info), (KEY, info + b"\x00"), (KEY, info[:-1] if info else b"x")):
        with pytest.raises(BadSeal):
            key.open(sealed, context)


def test_every_part_of_a_seal_is_protected() -> None:
    for position in [*range(0, len(SEALED), 37), 1087, 1088, 1119, 1120, len(SEALED) - 1]:
        altered = bytearray(SEALED)
        altered[position] ^= 1
        with pytest.raises(BadSeal):
            KEY.open(bytes(altered), b"context")
    for sealed in (
        b"",
        SEALED[:-1],
        SEALED[1:],
        SEALED + b"\x00",
        SEALED[:1120],
        SEALED[:1088] + bytes(32) + SEALED[1120:],
    ):
        with pytest.raises(BadSeal):
            KEY.open(sealed, b"context")


def test_seals_of_one_text_differ() -> None:
    assert seal(KEY.public_bytes, b"share", b"context") != SEALED


def test_public_bytes_are_mlkem_then_x25519() -> None:
    assert len(KEY.public_bytes) == PUBLIC_BYTES == 1184 + 32
    assert KEY.public_bytes != OTHER.public_bytes
    public = MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(KEY.public_bytes[:1184]),
        X25519PublicKey.from_public_bytes(KEY.public_bytes[1184:]),
    )
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert KEY.open(suite.encrypt(b"from the library", public, info=b"c"), b"c") == b"from the library"


@pytest.mark.parametrize(
    "public",
    [
        b"",
        KEY.public_bytes[:-1],
        KEY.public_bytes + b"\x00",
        KEY.public_bytes[1:],
        KEY.public_bytes[1184:] + KEY.public_bytes[:1184],
        b"\xff" * 1184 + KEY.public_bytes[1184:],  # ML-KEM coefficients not reduced (FIPS 203, section 7.2)
        KEY.public_bytes[:1184] + bytes(32),  # X25519 point of low order (RFC 7748, section 6.1)
    ],
)
def test_a_malformed_public_key_is_refused(public: bytes) -> None:
    with pytest.raises(BadSeal, match="malformed"):
        seal(public, b"share", b"context")


def test_nothing_secret_is_shown() -> None:
    assert repr(KEY).startswith("<crypto.primitives.sealed.SealingKey object at")
    assert "Private" not in str(KEY)


def test_check_public_names_whose_key_it_is() -> None:
    check_public(KEY.public_bytes, party="silo-a")
    for malformed in (b"", KEY.public_bytes[:1184] + bytes(32)):
        with pytest.raises(BadSeal, match="silo-a: its sealing key is malformed"):
            check_public(malformed, party="silo-a")
