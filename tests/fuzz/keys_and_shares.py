"""What cryptography reads of others: certificates, requests, keys, sealed messages, shares, packed words."""

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from crypto.encoding.layout import Layout, Section, open_chunk, pack_chunk
from crypto.encoding.words import WORD_BYTES, word_bytes, words_of
from crypto.identity import (
    Authority,
    Certified,
    certificate_request,
    check_certificates,
    check_key_pair,
    check_subject,
    hosts_of,
    read_peers,
)
from crypto.names import Suite
from crypto.primitives import sealed, shamir
from crypto.primitives.signing import SigningKey, check_public_key, public_key_bytes
from crypto.primitives.signing import verify as verify_signature
from fuzz.target import Target
from support.plans import signing_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def authority() -> Authority:
    return Authority("fuzzing", NOW, timedelta(days=30))


@cache
def own() -> Certified:
    return authority().issue("silo-000", ("localhost", "::1"))


def pem(der: bytes, kind: str) -> bytes:
    return f"-----BEGIN {kind}-----\n{b64encode(der).decode()}\n-----END {kind}-----\n".encode()


def certificate(der: bytes) -> None:
    shown = pem(der, "CERTIFICATE")
    for peer in read_peers(shown):
        str(peer)
    hosts_of(shown)
    check_certificates(shown, NOW)
    check_subject(shown, "silo-000")
    check_key_pair(own().private_key, shown)


def certificates(text: bytes) -> None:
    read_peers(text)
    Authority.load(Certified(text, own().private_key))


def request(der: bytes) -> None:
    authority().certify(pem(der, "CERTIFICATE REQUEST"), "silo-000", NOW, timedelta(days=1))


def private_key(der: bytes) -> None:
    check_key_pair(pem(der, "PRIVATE KEY"), own().certificate)


def signing_key(data: bytes) -> None:
    """The first byte chooses the suite, and what the others are taken for."""
    choice, data = data[0] if data else 0, data[1:]
    suite = list(Suite)[choice % 2]
    match choice // 2 % 3:
        case 0:
            size = public_key_bytes(suite)
            verify_signature(suite, data[:size], data[size:], b"context", b"message", party="silo-000")
        case 1:
            check_public_key(suite, data)
        case _:
            SigningKey.from_bytes(data, suite)


@cache
def sealing_keys() -> list[sealed.SealingKey]:
    return [sealed.SealingKey.generate(suite) for suite in Suite]


def sealed_message(data: bytes) -> None:
    """The first byte chooses the suite, and whether the others are a sealed message or a key to seal to."""
    choice, data = data[0] if data else 0, data[1:]
    key = sealing_keys()[choice % 2]
    if choice & 2:
        sealed.seal(key.suite, data, b"", b"")
    else:
        key.open(data, b"info", party="silo-000")


def shares(data: bytes) -> None:
    """A byte of threshold; then a byte of point and a share, again and again."""
    step = 1 + shamir.SHARE_BYTES
    pieces = [data[at : at + step] for at in range(1, len(data), step)]
    shamir.combine({piece[0]: piece[1:] for piece in pieces}, 1 + data[0] % 200 if data else 1)


LAYOUT = Layout((Section("counts", 100, 3), Section("more", 7, 64)), 4)


def opened_chunk(data: bytes) -> None:
    """The first byte chooses the chunk."""
    chunk = LAYOUT.chunks[data[0] % len(LAYOUT.chunks)] if data else LAYOUT.chunks[0]
    words = data[1 : 1 + (len(data) - 1) // WORD_BYTES * WORD_BYTES]
    open_chunk(chunk, words_of(words).copy(), 3)


def shamir_seeds() -> Iterator[bytes]:
    split = shamir.split(bytes(range(32)), 3, (1, 2, 3, 4, 5), lambda size: bytes(range(size)))
    yield bytes([2]) + b"".join(bytes([point]) + share for point, share in split.items())


def opened_seeds() -> Iterator[bytes]:
    for chunk in LAYOUT.chunks:
        words = 3 * pack_chunk(chunk, np.ones(chunk.lanes, np.uint64))
        yield bytes([chunk.index]) + word_bytes(words)


def sealed_seeds() -> Iterator[bytes]:
    for at, key in enumerate(sealing_keys()):
        yield bytes([at]) + sealed.seal(key.suite, key.public_bytes, b"text", b"info")
        yield bytes([at + 2]) + key.public_bytes


def signing_seeds() -> Iterator[bytes]:
    for at, suite in enumerate(Suite):
        key = signing_keys(1, suite)["silo-000"]
        signature = key.sign(b"context", b"message")
        for way, data in enumerate((key.public_bytes + signature, key.public_bytes, key.to_bytes())):
            yield bytes([at + 2 * way]) + data


TARGETS = {
    "certificate": Target(
        certificate, lambda: [x509.load_pem_x509_certificate(own().certificate).public_bytes(Encoding.DER)]
    ),
    "certificates": Target(certificates, lambda: [own().certificate, own().certificate + authority().certificate]),
    "certificate_request": Target(
        request, lambda: [x509.load_pem_x509_csr(certificate_request("silo-000")[0]).public_bytes(Encoding.DER)]
    ),
    "private_key": Target(
        private_key,
        lambda: [
            load_pem_private_key(own().private_key, None).private_bytes(
                Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
            )
        ],
    ),
    "signing_key": Target(signing_key, signing_seeds),
    "sealed_message": Target(sealed_message, sealed_seeds, mutants=500),
    "shares": Target(shares, shamir_seeds),
    "opened_chunk": Target(opened_chunk, opened_seeds),
}
