"""Sealed messages of both suites: they open for their receiver in their context, and for nothing else."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PublicKey,
    MLKEM1024P384PublicKey,
)
from cryptography.hazmat.primitives.hpke import Suite as Hpke
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import BadSeal
from crypto.names import Suite
from crypto.primitives.sealed import SealingKey, check_public, public_bytes, seal, seal_overhead

KEYS = {suite: SealingKey.generate(suite) for suite in Suite}
OTHERS = {suite: SealingKey.generate(suite) for suite in Suite}
SEALED = {suite: seal(suite, key.public_bytes, b"share", b"context") for suite, key in KEYS.items()}
PARTS = {Suite.DEFAULT: (1184, 1088, 32), Suite.FIPS: (1568, 1568, 97)}  # ML-KEM key, ML-KEM ciphertext, point
both = pytest.mark.parametrize("suite", Suite)


@both
@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=500), st.binary(max_size=200))
def test_a_seal_opens_under_its_key_and_context(suite: Suite, plaintext: bytes, info: bytes) -> None:
    sealed = seal(suite, KEYS[suite].public_bytes, plaintext, info)
    assert len(sealed) == len(plaintext) + seal_overhead(suite)
    assert KEYS[suite].open(sealed, info) == plaintext
    for key, context in (
        (OTHERS[suite], info),
        (KEYS[suite], info + b"\x00"),
        (KEYS[suite], info[:-1] if info else b"x"),
    ):
        with pytest.raises(BadSeal):
            key.open(sealed, context)


def test_the_lengths_of_a_suite() -> None:
    assert {suite: (public_bytes(suite), seal_overhead(suite)) for suite in Suite} == {
        Suite.DEFAULT: (1184 + 32, 1088 + 32 + 16),
        Suite.FIPS: (1568 + 97, 1568 + 97 + 16),
    }


@both
def test_every_part_of_a_seal_is_protected(suite: Suite) -> None:
    key, sealed, (_, ciphertext, point) = KEYS[suite], SEALED[suite], PARTS[suite]
    end = ciphertext + point
    for position in [*range(0, len(sealed), 37), ciphertext - 1, ciphertext, end - 1, end, len(sealed) - 1]:
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(BadSeal, match="silo-a: a sealed message does not open"):
            key.open(bytes(altered), b"context", party="silo-a")
    no_point = sealed[:ciphertext] + bytes(point) + sealed[end:]
    for malformed in (b"", sealed[:-1], sealed[1:], sealed + b"\x00", sealed[:end], sealed[: end + 15], no_point):
        with pytest.raises(BadSeal):
            key.open(malformed, b"context")


@both
def test_seals_of_one_text_differ(suite: Suite) -> None:
    again = seal(suite, KEYS[suite].public_bytes, b"share", b"context")
    _, ciphertext, point = PARTS[suite]
    assert again[:ciphertext] != SEALED[suite][:ciphertext]
    assert again[ciphertext : ciphertext + point] != SEALED[suite][ciphertext : ciphertext + point]


@both
def test_a_public_key_is_fresh_and_of_its_length(suite: Suite) -> None:
    mlkem = PARTS[suite][0]
    one, other = KEYS[suite].public_bytes, OTHERS[suite].public_bytes
    assert len(one) == len(other) == public_bytes(suite)
    assert one[:mlkem] != other[:mlkem]
    assert one[mlkem:] != other[mlkem:]
    assert KEYS[suite].suite is suite


def test_public_bytes_are_mlkem_then_x25519() -> None:
    key = KEYS[Suite.DEFAULT]
    public = MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(key.public_bytes[:1184]),
        X25519PublicKey.from_public_bytes(key.public_bytes[1184:]),
    )
    library = Hpke(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert key.open(library.encrypt(b"from the library", public, info=b"c"), b"c") == b"from the library"


def test_public_bytes_are_mlkem_then_an_uncompressed_p384_point() -> None:
    key = KEYS[Suite.FIPS]
    point = key.public_bytes[1568:]
    x, y = int.from_bytes(point[1:49], "big"), int.from_bytes(point[49:], "big")
    assert point[0] == 4
    public = MLKEM1024P384PublicKey(
        MLKEM1024PublicKey.from_public_bytes(key.public_bytes[:1568]),
        ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key(),
    )
    library = Hpke(KEM.MLKEM1024_P384, KDF.HKDF_SHA384, AEAD.AES_256_GCM)
    assert key.open(library.encrypt(b"from the library", public, info=b"c"), b"c") == b"from the library"


def malformed_keys(suite: Suite) -> list[bytes]:
    public, other = KEYS[suite].public_bytes, KEYS[Suite.FIPS if suite is Suite.DEFAULT else Suite.DEFAULT].public_bytes
    mlkem = PARTS[suite][0]
    head, point = public[:mlkem], public[mlkem:]
    malformed = [b"", public[:-1], public + b"\x00", public[1:], point + head, head, point, other]
    malformed.append(b"\xff" * mlkem + point)  # ML-KEM coefficients not reduced (FIPS 203, section 7.2)
    malformed.append(head + bytes(len(point)))  # X25519 point of low order (RFC 7748, section 6.1); no P-384 point
    if suite is Suite.FIPS:
        off_curve = point[:-1] + bytes([point[-1] ^ 1])
        compressed = bytes([2 + point[-1] % 2]) + point[1:49]
        hybrid = bytes([6 + point[-1] % 2]) + point[1:]  # X9.62's hybrid form, which OpenSSL knows
        malformed += [head + form for form in (off_curve, compressed, hybrid, b"\x00", b"\x00" + point[1:])]
    return malformed


@both
def test_a_malformed_public_key_is_refused(suite: Suite) -> None:
    check_public(suite, KEYS[suite].public_bytes, party="silo-a")
    for public in malformed_keys(suite):
        with pytest.raises(BadSeal, match="malformed"):
            seal(suite, public, b"share", b"context")
        with pytest.raises(BadSeal, match="silo-a: its sealing key is malformed") as caught:
            check_public(suite, public, party="silo-a")
        assert caught.value.party == "silo-a"


def test_a_seal_of_the_other_suite_does_not_open() -> None:
    for suite, other in ((Suite.DEFAULT, Suite.FIPS), (Suite.FIPS, Suite.DEFAULT)):
        with pytest.raises(BadSeal):
            KEYS[suite].open(SEALED[other], b"context")


@both
def test_nothing_secret_is_shown(suite: Suite) -> None:
    assert repr(KEYS[suite]).startswith("<crypto.primitives.sealed.SealingKey object at")
    assert "Private" not in str(KEYS[suite])
