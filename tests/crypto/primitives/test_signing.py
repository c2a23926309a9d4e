"""Signatures against the library's Ed25519 over bytes written out here."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import BadSignature, IdentityError
from crypto.primitives.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify

SECRET = bytes(range(32))
KEY = SigningKey.from_bytes(SECRET)
short = st.binary(max_size=20)


def check(signature: bytes, context: bytes, message: bytes, public: bytes = KEY.public_bytes) -> None:
    verify(public, signature, context, message, party="silo b")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.binary(max_size=300))
def test_the_signed_bytes_are_domain_length_context_message(secret: bytes, context: bytes, message: bytes) -> None:
    library, key = Ed25519PrivateKey.from_private_bytes(secret), SigningKey.from_bytes(secret)
    low, high = len(context) % 256, len(context) // 256
    expected = library.sign(b"sparsilo/1 signature" + bytes([low, high]) + context + message)
    assert key.sign(context, message) == expected
    assert key.public_bytes == library.public_key().public_bytes_raw()
    assert (len(expected), len(key.public_bytes)) == (SIGNATURE_BYTES, PUBLIC_KEY_BYTES) == (64, 32)
    verify(key.public_bytes, expected, context, message, party="silo a")


@given(short, short, short, short)
def test_a_signature_is_for_one_context_and_message(c1: bytes, m1: bytes, c2: bytes, m2: bytes) -> None:
    signature = KEY.sign(c1, m1)
    if (c1, m1) != (c2, m2):
        with pytest.raises(BadSignature):
            check(signature, c2, m2)


@given(short, st.integers(0, 20))
def test_moving_the_end_of_the_context_breaks_the_signature(text: bytes, cut: int) -> None:
    signature = KEY.sign(text[:cut], text[cut:])
    for other in range(len(text) + 1):
        if other != min(cut, len(text)):
            with pytest.raises(BadSignature):
                check(signature, text[:other], text[other:])


@given(st.integers(0, 511))
def test_every_bit_of_a_signature_counts(bit: int) -> None:
    altered = int.from_bytes(KEY.sign(b"c", b"m"), "big") ^ (1 << bit)
    with pytest.raises(BadSignature):
        check(altered.to_bytes(64, "big"), b"c", b"m")


def test_a_signature_has_one_form() -> None:
    """Adding the group order to the second half gives the same equation (RFC 8032, section 5.1.7 forbids it)."""
    signature = KEY.sign(b"c", b"m")
    order = 2**252 + 27742317777372353535851937790883648493
    second = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignature):
        check(signature[:32] + second.to_bytes(32, "little"), b"c", b"m")


def test_wrong_keys_and_lengths_are_bad_signatures_that_name_the_signer() -> None:
    signature = KEY.sign(b"c", b"m")
    check(signature, b"c", b"m")
    for public, given_signature in [
        (SigningKey.generate().public_bytes, signature),
        (KEY.public_bytes[1:], signature),
        (KEY.public_bytes + b"\x00", signature),
        (b"", signature),
        (b"\xff" * 32, signature),
        (KEY.public_bytes, signature[:-1]),
        (KEY.public_bytes, signature + b"\x00"),
        (KEY.public_bytes, b""),
    ]:
        with pytest.raises(BadSignature, match="silo b: ") as caught:
            check(given_signature, b"c", b"m", public)
        assert caught.value.party == "silo b"


def test_keys_travel_as_32_bytes() -> None:
    assert KEY.to_bytes() == SECRET
    fresh = SigningKey.generate()
    assert SigningKey.from_bytes(fresh.to_bytes()).public_bytes == fresh.public_bytes
    assert fresh.to_bytes() != SigningKey.generate().to_bytes()
    for size in (0, 31, 33, 64):
        with pytest.raises(IdentityError, match=f"not {size}"):
            SigningKey.from_bytes(bytes(size))


def test_a_context_has_at_most_65535_bytes() -> None:
    check(KEY.sign(bytes(65_535), b"m"), bytes(65_535), b"m")
    with pytest.raises(OverflowError):
        KEY.sign(bytes(65_536), b"m")


def test_nothing_secret_is_shown() -> None:
    assert repr(KEY).startswith("<crypto.primitives.signing.SigningKey object at")
    assert SECRET.hex() not in repr(KEY) + str(vars(KEY))
