"""Signatures of both suites against the library over bytes written out here."""

from hashlib import sha384

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import BadSignature, IdentityError
from crypto.names import Suite
from crypto.primitives.signing import (
    SigningKey,
    check_public_key,
    private_key_bytes,
    public_key_bytes,
    signature_bytes,
    verify,
)

SECRETS = {Suite.DEFAULT: bytes(range(32)), Suite.FIPS: bytes(range(1, 49))}
KEYS = {suite: SigningKey.from_bytes(secret, suite) for suite, secret in SECRETS.items()}
P384_ORDER = (
    39402006196394479212279040100143613805079739270465446667946905279627659399113263569398956308152294913554433653942643
)
P384_PRIME = 2**384 - 2**128 - 2**96 + 2**32 - 1
both = pytest.mark.parametrize("suite", Suite)
short = st.binary(max_size=20)


def check(suite: Suite, signature: bytes, context: bytes, message: bytes, public: bytes | None = None) -> None:
    verify(suite, KEYS[suite].public_bytes if public is None else public, signature, context, message, party="silo b")


def documented_bytes(context: bytes, message: bytes) -> bytes:
    return b"sparsilo/1 signature" + bytes([len(context) % 256, len(context) // 256]) + context + message


def test_the_lengths_of_a_suite() -> None:
    lengths = {suite: (private_key_bytes(suite), public_key_bytes(suite), signature_bytes(suite)) for suite in Suite}
    assert lengths == {Suite.DEFAULT: (32, 32, 64), Suite.FIPS: (48, 49, 96)}


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.binary(max_size=300))
def test_ed25519_signs_domain_length_context_message(secret: bytes, context: bytes, message: bytes) -> None:
    library, key = Ed25519PrivateKey.from_private_bytes(secret), SigningKey.from_bytes(secret, Suite.DEFAULT)
    expected = library.sign(documented_bytes(context, message))
    assert key.sign(context, message) == expected
    assert key.public_bytes == library.public_key().public_bytes_raw()
    verify(Suite.DEFAULT, key.public_bytes, expected, context, message, party="silo a")


@given(st.integers(1, P384_ORDER - 1), st.binary(max_size=300), st.binary(max_size=300))
def test_ecdsa_signs_domain_length_context_message(scalar: int, context: bytes, message: bytes) -> None:
    library = ec.derive_private_key(scalar, ec.SECP384R1())
    point, data = library.public_key().public_numbers(), documented_bytes(context, message)
    key = SigningKey.from_bytes(scalar.to_bytes(48, "big"), Suite.FIPS)
    assert key.public_bytes == bytes([2 + point.y % 2]) + point.x.to_bytes(48, "big")
    signature = key.sign(context, message)
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    library.public_key().verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA384()))
    rfc6979_r, rfc6979_s = decode_dss_signature(library.sign(data, ec.ECDSA(SHA384(), deterministic_signing=True)))
    assert r == rfc6979_r
    assert s in (rfc6979_s, P384_ORDER - rfc6979_s)
    assert s < P384_ORDER / 2
    library_r, library_s = decode_dss_signature(library.sign(data, ec.ECDSA(SHA384())))
    low = min(library_s, P384_ORDER - library_s)
    theirs = library_r.to_bytes(48, "big") + low.to_bytes(48, "big")
    verify(Suite.FIPS, key.public_bytes, theirs, context, message, party="silo a")


@both
@given(short, short, short, short)
def test_a_signature_is_for_one_context_and_message(suite: Suite, c1: bytes, m1: bytes, c2: bytes, m2: bytes) -> None:
    signature = KEYS[suite].sign(c1, m1)
    assert (len(signature), len(KEYS[suite].public_bytes)) == (signature_bytes(suite), public_key_bytes(suite))
    check(suite, signature, c1, m1)
    if (c1, m1) != (c2, m2):
        with pytest.raises(BadSignature):
            check(suite, signature, c2, m2)


@both
@given(short, st.integers(0, 20))
def test_moving_the_end_of_the_context_breaks_the_signature(suite: Suite, text: bytes, cut: int) -> None:
    signature = KEYS[suite].sign(text[:cut], text[cut:])
    for other in range(len(text) + 1):
        if other != min(cut, len(text)):
            with pytest.raises(BadSignature):
                check(suite, signature, text[:other], text[other:])


@both
def test_every_bit_of_a_signature_counts(suite: Suite) -> None:
    size = signature_bytes(suite)
    signature = int.from_bytes(KEYS[suite].sign(b"c", b"m"), "big")
    for bit in range(8 * size):
        with pytest.raises(BadSignature):
            check(suite, (signature ^ (1 << bit)).to_bytes(size, "big"), b"c", b"m")


def test_an_ed25519_signature_has_one_form() -> None:
    """Adding the group order to the second half gives the same equation (RFC 8032, section 5.1.7 forbids it)."""
    signature = KEYS[Suite.DEFAULT].sign(b"c", b"m")
    order = 2**252 + 27742317777372353535851937790883648493
    second = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignature):
        check(Suite.DEFAULT, signature[:32] + second.to_bytes(32, "little"), b"c", b"m")


@given(st.binary(max_size=20))
def test_the_twin_of_an_ecdsa_signature_is_refused(message: bytes) -> None:
    key = ec.derive_private_key(int.from_bytes(SECRETS[Suite.FIPS], "big"), ec.SECP384R1())
    signature = KEYS[Suite.FIPS].sign(b"c", message)
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    twin = P384_ORDER - s
    data = documented_bytes(b"c", message)
    key.public_key().verify(encode_dss_signature(r, twin), data, ec.ECDSA(SHA384()))  # ECDSA itself takes both
    with pytest.raises(BadSignature):
        check(Suite.FIPS, signature[:48] + twin.to_bytes(48, "big"), b"c", message)


def test_ecdsa_takes_s_up_to_half_the_order() -> None:
    """A key d = (s k - e) / r makes any s a signature with the nonce k: here s on either side of the half."""
    half, nonce = P384_ORDER // 2, 7
    e = int.from_bytes(sha384(documented_bytes(b"c", b"m")).digest(), "big")
    r = ec.derive_private_key(nonce, ec.SECP384R1()).public_key().public_numbers().x % P384_ORDER
    for s, fits in ((1, True), (half, True), (half + 1, False)):
        scalar = (s * nonce - e) * pow(r, -1, P384_ORDER) % P384_ORDER
        public = SigningKey.from_bytes(scalar.to_bytes(48, "big"), Suite.FIPS).public_bytes
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        if fits:
            check(Suite.FIPS, signature, b"c", b"m", public)
        else:
            with pytest.raises(BadSignature):
                check(Suite.FIPS, signature, b"c", b"m", public)
        if s == 1:  # the same number in fewer or more bytes
            for other in (signature[:48] + b"\x01", signature[:48] + b"\x00" + signature[48:]):
                with pytest.raises(BadSignature):
                    check(Suite.FIPS, other, b"c", b"m", public)


def test_ecdsa_halves_are_within_the_order() -> None:
    signature = KEYS[Suite.FIPS].sign(b"c", b"m")
    r, s = signature[:48], signature[48:]
    order = P384_ORDER.to_bytes(48, "big")
    for altered in (bytes(48) + s, r + bytes(48), bytes(96), order + s, r + order, b"\xff" * 48 + s):
        with pytest.raises(BadSignature):
            check(Suite.FIPS, altered, b"c", b"m")


@both
def test_wrong_keys_and_lengths_are_bad_signatures_that_name_the_signer(suite: Suite) -> None:
    key = KEYS[suite]
    signature = key.sign(b"c", b"m")
    check(suite, signature, b"c", b"m")
    other = KEYS[Suite.FIPS if suite is Suite.DEFAULT else Suite.DEFAULT]
    for public, given_signature in [
        (SigningKey.generate(suite).public_bytes, signature),
        (other.public_bytes, signature),
        (key.public_bytes, other.sign(b"c", b"m")),
        (other.public_bytes, other.sign(b"c", b"m")),
        (key.public_bytes[1:], signature),
        (key.public_bytes + b"\x00", signature),
        (b"", signature),
        (b"\xff" * len(key.public_bytes), signature),
        (key.public_bytes, signature[:-1]),
        (key.public_bytes, signature + b"\x00"),
        (key.public_bytes, b"\x00" + signature),
        (key.public_bytes, b""),
    ]:
        with pytest.raises(BadSignature, match="silo b: ") as caught:
            check(suite, given_signature, b"c", b"m", public)
        assert caught.value.party == "silo b"


def test_a_p384_point_is_compressed() -> None:
    """The uncompressed form of the same key is another public key to everything that compares bytes."""
    key = ec.derive_private_key(int.from_bytes(SECRETS[Suite.FIPS], "big"), ec.SECP384R1())
    numbers = key.public_key().public_numbers()
    uncompressed = b"\x04" + numbers.x.to_bytes(48, "big") + numbers.y.to_bytes(48, "big")
    assert ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), uncompressed) == key.public_key()
    with pytest.raises(IdentityError):
        check_public_key(Suite.FIPS, uncompressed)
    with pytest.raises(BadSignature):
        check(Suite.FIPS, KEYS[Suite.FIPS].sign(b"c", b"m"), b"c", b"m", uncompressed)


@both
def test_a_key_that_cannot_verify_is_refused_before(suite: Suite) -> None:
    public = KEYS[suite].public_bytes
    check_public_key(suite, public)
    check_public_key(suite, SigningKey.generate(suite).public_bytes)
    other = KEYS[Suite.FIPS if suite is Suite.DEFAULT else Suite.DEFAULT].public_bytes
    for wrong in (b"", public[:-1], public[1:], public + b"\x00", b"\x00" + public, other):
        with pytest.raises(IdentityError, match=f"{len(wrong)} bytes is not one of {len(public)} bytes"):
            check_public_key(suite, wrong)


def is_valid(suite: Suite, public: bytes) -> bool:
    try:
        check_public_key(suite, public)
    except IdentityError:
        with pytest.raises(BadSignature):
            verify(suite, public, bytes(signature_bytes(suite)), b"", b"", party="")
        return False
    return True


@given(st.one_of(st.integers(0, 60), st.integers(P384_PRIME - 60, 2**384 - 1), st.integers(0, 2**384 - 1)))
def test_p384_public_keys_are_points_of_the_curve(x: int) -> None:
    b = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
    on_curve = x < P384_PRIME and pow(x**3 - 3 * x + b, (P384_PRIME - 1) // 2, P384_PRIME) == 1
    for head, valid in ((2, on_curve), (3, on_curve), (0, False), (4, False), (6, False)):
        assert is_valid(Suite.FIPS, bytes([head]) + x.to_bytes(48, "big")) == valid


@both
def test_keys_travel_as_bytes(suite: Suite) -> None:
    assert (KEYS[suite].to_bytes(), KEYS[suite].suite) == (SECRETS[suite], suite)
    fresh = SigningKey.generate(suite)
    assert len(fresh.to_bytes()) == private_key_bytes(suite)
    assert SigningKey.from_bytes(fresh.to_bytes(), suite).public_bytes == fresh.public_bytes
    assert fresh.to_bytes() != SigningKey.generate(suite).to_bytes()
    for size in {0, 31, 32, 33, 47, 48, 49, 64} - {private_key_bytes(suite)}:
        with pytest.raises(IdentityError, match=f"not {size}"):
            SigningKey.from_bytes(bytes(size), suite)


def test_a_scalar_is_from_one_to_below_the_order() -> None:
    for scalar in (1, 255, P384_ORDER - 1):  # small ones keep their leading zeros
        secret = scalar.to_bytes(48, "big")
        assert SigningKey.from_bytes(secret, Suite.FIPS).to_bytes() == secret
    for scalar in (0, P384_ORDER, P384_ORDER + 1, 2**384 - 1):
        with pytest.raises(IdentityError, match="out of range"):
            SigningKey.from_bytes(scalar.to_bytes(48, "big"), Suite.FIPS)


@both
def test_a_context_has_at_most_65535_bytes(suite: Suite) -> None:
    check(suite, KEYS[suite].sign(bytes(65_535), b"m"), bytes(65_535), b"m")
    with pytest.raises(OverflowError):
        KEYS[suite].sign(bytes(65_536), b"m")


@both
def test_nothing_secret_is_shown(suite: Suite) -> None:
    key = KEYS[suite]
    shown = (
        repr(key) + str(vars(key)) + str([vars(value) for value in vars(key).values() if hasattr(value, "__dict__")])
    )
    assert repr(key).startswith("<crypto.primitives.signing.SigningKey object at")
    for form in (SECRETS[suite].hex(), repr(SECRETS[suite])[2:-1], str(int.from_bytes(SECRETS[suite], "big"))):
        assert form not in shown
