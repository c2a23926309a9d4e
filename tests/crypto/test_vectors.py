"""The published vectors (tests/vectors), each checked twice: by the code, and by what docs/protocol.md says, written
out here with the standard library and the bare primitives.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crypto.backends.double_masking import transcript
from crypto.backends.verification import verify_transcript
from crypto.encoding import fixed_point, lanes
from crypto.encoding.layout import Layout, Section, open_chunk, pack_chunk
from crypto.encoding.wire import decode, encode
from crypto.errors import SparsiloError
from crypto.names import Suite
from crypto.plan_rules import decode_plan
from crypto.primitives import merkle, sealed, shamir, signing
from crypto.primitives.mask_stream import add_masks
from crypto.releases.evaluation import NLL_FRACTION_BITS
from crypto.releases.release_spec import layout_of
from crypto.secagg.messages import MAX_MESSAGE_BYTES
from sparsilo.v1 import plan_pb2, round_pb2, words_pb2
from vectors.case import plain
from vectors.generate import every_case, text
from vectors.messages import listed

VECTORS = Path(__file__).parent.parent / "vectors"
FILES = {path.relative_to(VECTORS).as_posix(): path.read_text("utf-8") for path in sorted(VECTORS.rglob("*.json"))}
KINDS: set[str] = set()
"""Which a test takes."""

Vector = dict[str, Any]


def vectors(kind: str) -> pytest.MarkDecorator:
    KINDS.add(kind)
    found = {Path(name).stem: file for name, file in FILES.items() if name.startswith(f"{kind}/")}
    return pytest.mark.parametrize("vector", [pytest.param(json.loads(file), id=name) for name, file in found.items()])


@contextmanager
def outcome(vector: Vector) -> Iterator[None]:
    """Nothing is raised, or exactly the error that the file names."""
    if "error" not in vector:
        yield
        return
    with pytest.raises(SparsiloError) as caught:
        yield
    assert caught.value.code == vector["error"]


def unhex(value: Any) -> bytes:
    """Bytes of a file: hex, or parts, of which some are repeated."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    return b"".join(
        unhex(part["repeat"]) * part["times"] if isinstance(part, dict) else bytes.fromhex(part) for part in value
    )


def test_every_file_is_used() -> None:
    assert {name.split("/")[0] for name in FILES} == KINDS
    assert all(name.count("/") == 1 for name in FILES)
    for kind in KINDS:
        assert any("expected" in json.loads(file) for name, file in FILES.items() if name.startswith(f"{kind}/"))


def test_every_file_says_what_it_is() -> None:
    protocol = (VECTORS.parent.parent / "docs" / "protocol.md").read_text("utf-8")
    clauses = set(re.findall(r"^- \*\*([\d.]+)\*\*", protocol, re.MULTILINE))
    for name, file in FILES.items():
        vector = json.loads(file)
        assert vector["description"].endswith("."), name
        assert vector["clause"], name
        assert set(vector["clause"]) <= clauses, name
        assert ("expected" in vector) != ("error" in vector), name
    assert sum(len(file) for file in FILES.values()) < 1_000_000


def test_the_generator_writes_these_files() -> None:
    assert {f"{name}.json": text(fields) for name, fields in every_case().items()} == FILES


# What docs/protocol.md says, in as few words.


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def hkdf(hash_name: str, salt: bytes, secret: bytes, info: bytes, size: int) -> bytes:
    return hkdf_expand(hash_name, hmac.digest(salt, secret, hash_name), info, size)


def hkdf_expand(hash_name: str, key: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, section 2.3, for one block."""
    return hmac.digest(key, info + b"\x01", hash_name)[:size]


def mask(seed: bytes, context: bytes, chunk: int, words: int) -> list[int]:
    """6.3.1 and 6.3.2; without a salt HKDF takes zeros as long as the hash."""
    subkey = hkdf("sha256", bytes(32), seed, b"sparsilo/1 mask stream" + context + le(chunk, 8), 32)
    return words_of(Cipher(algorithms.AES256(subkey), modes.CTR(bytes(16))).encryptor().update(bytes(8 * words)))


def words_of(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def bytes_of(words: Sequence[int]) -> bytes:
    return b"".join(le(word % 2**64, 8) for word in words)


def packed(values: Sequence[int], width: int) -> list[int]:
    """2.4.2 and 6.1.1."""
    in_word = 64 // width
    assert all(0 <= value < 2**width for value in values)
    return [
        sum(value * 2 ** (width * at) for at, value in enumerate(values[start : start + in_word]))
        for start in range(0, len(values), in_word)
    ]


def chunk_table(sections: Sequence[tuple[str, int, int]], chunk_words: int) -> list[tuple[str, int, int, int]]:
    """2.4.6: section, width, and which lanes, of every chunk."""
    return [
        (name, width, start, min(start + chunk_words * (64 // width), count))
        for name, count, width in sections
        for start in range(0, count, chunk_words * (64 // width))
    ]


def varint(value: int) -> bytes:
    low, high = value % 128, value // 128
    return bytes([low + 128]) + varint(high) if high else bytes([low])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while data[at] >= 128:
        value, shift, at = value + (data[at] - 128) * 2**shift, shift + 7, at + 1
    return value + data[at] * 2**shift, at + 1


def fields_of(data: bytes) -> dict[int, list[Any]]:
    """A message's fields by number: bytes or numbers, in order."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value: Any
        value, at = read_varint(data, at)
        if key % 8 == 2:
            value, at = data[at : at + value], at + value
        found.setdefault(key // 8, []).append(value)
    return found


def text_field(number: int, content: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(content)) + content


def spelled(fields: Sequence[Any]) -> bytes:
    """Canonical bytes of what the file lists as [number, kind, value]."""
    data = b""
    for number, kind, value in fields:
        if kind == "number":
            data += varint(number * 8) + varint(value)
        elif kind == "numbers":
            data += text_field(number, b"".join(map(varint, value)))
        elif kind == "message":
            data += text_field(number, spelled(value))
        else:
            plain_text = kind == "text" and isinstance(value, str)
            data += text_field(number, value.encode() if plain_text else unhex(value))
    return data


class Cohort:
    """What a plan says, read field by field as in plan.proto."""

    def __init__(self, plan: bytes) -> None:
        self.plan = plan
        self.fields = fields_of(plan)
        self.suite = self.fields[3][0].decode()
        members = [fields_of(member) for member in self.fields[5]]
        self.roster = {member[1][0].decode(): member[2][0] for member in members}
        self.silos = list(self.roster)
        self.digest = sha256(b"sparsilo/1 plan", plan)

    def round_digest(self, index: int) -> bytes:
        return sha256(b"sparsilo/1 round", self.digest, le(index, 4))

    def sections(self, index: int) -> list[tuple[str, int, int]]:
        """2.4.3 and 2.4.4: name, lanes, width."""
        n, release = len(self.roster), fields_of(self.fields[11][index])
        if 2 in release:
            candidates = len(fields_of(release[2][0])[2])
            return [("negative log-likelihood", candidates, 64), ("tokens", candidates, 64)]
        by_row = fields_of(self.fields[10][0])[3][0] == b"row"
        found = []
        for tensor in map(fields_of, self.fields[9]):
            if tensor.get(4) == [1]:
                rows, at = read_varint(tensor[3][0], 0)
                columns, _ = read_varint(tensor[3][0], at)
                groups, size = (rows, columns) if by_row else (1, rows * columns)
                name = tensor[1][0].decode()
                found.append((f"votes {name}", rows * columns, n.bit_length()))
                found.append((f"nonzero counts {name}", groups, (n * size).bit_length()))
        return found

    def chunks(self, index: int) -> list[tuple[str, int, int, int]]:
        return chunk_table(self.sections(index), self.fields[12][0])

    def verify(self, silo: str, signature: bytes, context: bytes, message: bytes) -> None:
        library_verify(self.suite, self.roster[silo], signature, context, message)


def signed_bytes(context: bytes, message: bytes) -> bytes:
    return b"sparsilo/1 signature" + le(len(context), 2) + context + message


def library_verify(suite: str, public: bytes, signature: bytes, context: bytes, message: bytes) -> None:
    data = signed_bytes(context, message)
    if suite == Suite.DEFAULT:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
        return
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    assert len(signature) == 96
    assert s <= P384_ORDER // 2
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public)
    point.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA384()))


P384_ORDER = (
    39402006196394479212279040100143613805079739270465446667946905279627659399113263569398956308152294913554433653942643
)


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, section 2.1.1."""
    if len(leaves) == 1:
        return sha256(b"\x00", leaves[0])
    k = below(len(leaves))
    return sha256(b"\x01", tree_hash(leaves[:k]), tree_hash(leaves[k:]))


def tree_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = below(len(leaves))
    if index < k:
        return [*tree_path(index, leaves[:k]), tree_hash(leaves[k:])]
    return [*tree_path(index - k, leaves[k:]), tree_hash(leaves[:k])]


def below(n: int) -> int:
    """The largest power of two below n."""
    return 2 ** ((n - 1).bit_length() - 1)


def auditor_places(coin: bytes, chunk: int, signers: int, wanted: int) -> list[int]:
    """Return a chunk's auditors as clause 3.7.5 draws them, without a list to draw from."""
    drawn: list[int] = []
    for j in range(wanted):
        h = sha256(b"sparsilo/1 auditors", coin, le(chunk, 8), le(j // 4, 8) if j >= 4 else b"")
        place = int.from_bytes(h[j % 4 * 8 : j % 4 * 8 + 8], "little") % (signers - j)
        for taken in sorted(drawn):
            place += place >= taken
        drawn.append(place)
    return drawn


def pair_seed(participants: bytes, low: str, high: str, contributions: bytes) -> bytes:
    """3.4.1."""
    info = b"sparsilo/1 pair seed\x00" + participants + low.encode() + b"\x00" + high.encode()
    return hkdf("sha256", bytes(32), contributions, info, 32)


# One test a kind.


@vectors("mask_stream")
@pytest.mark.clause("6.3.1", "6.3.2")
def test_mask_stream(vector: Vector) -> None:
    seed, context, data = unhex(vector["seed"]), unhex(vector["context"]), unhex(vector["words"])
    words = np.frombuffer(data, "<u8").copy()
    add_masks(words, [(seed, vector["sign"])], context, vector["chunk"])
    masks = mask(seed, context, vector["chunk"], len(words))
    by_hand = bytes_of([word + vector["sign"] * m for word, m in zip(words_of(data), masks, strict=True)])
    for result in (words.tobytes(), by_hand):
        if isinstance(vector["expected"], str):
            assert result.hex() == vector["expected"]
        else:
            assert {"length": len(result), "sha256": sha256(result).hex()} == vector["expected"]


@vectors("lanes")
@pytest.mark.clause("2.4.2", "6.1.1", "6.1.2", "6.7.2")
def test_lanes(vector: Vector) -> None:
    width = vector["width"]
    with outcome(vector):
        if "words" in vector:
            lanes.unpack(np.array(words_of(unhex(vector["words"])), np.uint64), width, vector["lanes"])
        values = vector["values"]
        words = lanes.pack(np.array(values, np.uint64), width)
        assert words.astype("<u8").tobytes().hex() == vector["expected"]
        assert lanes.unpack(words, width, len(values)).tolist() == values
        if max(values) == 1:
            assert np.array_equal(lanes.pack(np.array(values, bool), width), words)
    if "expected" in vector:
        assert bytes_of(packed(values, width)).hex() == vector["expected"]
        assert lanes.lane_width(2**width - 1) == width
    elif "values" in vector:
        assert max(vector["values"]) >= 2**width
    else:
        in_word, words = 64 // width, words_of(unhex(vector["words"]))
        room = [min(in_word, vector["lanes"] - at) for at in range(0, vector["lanes"], in_word)]
        assert any(word >= 2 ** (width * held) for word, held in zip(words, room, strict=True))


@vectors("chunk")
@pytest.mark.clause("2.4.6", "6.1.1", "6.1.2", "6.2.1", "6.7.2")
def test_chunk(vector: Vector) -> None:
    layout = Layout(tuple(Section(**section) for section in vector["sections"]), vector["chunk_words"])
    chunk = layout.chunks[vector["chunk"]]
    with outcome(vector):
        if "values" in vector:
            assert pack_chunk(chunk, np.array(vector["values"], np.uint64)).tobytes().hex() == vector["expected"]
        else:
            words = np.array(words_of(unhex(vector["words"])), np.uint64)
            assert open_chunk(chunk, words, vector["survivors"]).tolist() == vector["expected"]
    table = chunk_table([(s["name"], s["lanes"], s["width"]) for s in vector["sections"]], vector["chunk_words"])
    name, width, start, end = table[vector["chunk"]]
    assert (chunk.section.name, chunk.start, chunk.lanes) == (name, start, end - start)
    if "expected" in vector:
        header, summed, data = (
            (1, vector["values"], vector["expected"])
            if "values" in vector
            else (vector["survivors"], vector["expected"], vector["words"])
        )
        assert bytes_of([header, *packed(summed, width)]).hex() == data
        assert len(summed) == end - start


@vectors("likelihood")
@pytest.mark.clause("2.4.4")
def test_likelihood(vector: Vector) -> None:
    with outcome(vector):
        assert fixed_point.encode(float(vector["value"]), NLL_FRACTION_BITS, vector["silos"]) == vector["expected"]
    if "expected" in vector:
        scaled = Fraction(vector["value"]) * 2**24
        whole, rest = scaled.numerator // scaled.denominator, scaled - scaled.numerator // scaled.denominator
        assert vector["expected"] == whole + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1))


@vectors("merkle")
@pytest.mark.clause("5.9.1", "6.6.1")
def test_merkle(vector: Vector) -> None:
    with outcome(vector):
        if "leaf_hash" in vector:
            path = [unhex(node) for node in vector["path"]]
            merkle.root_of_path(unhex(vector["leaf_hash"]), vector["index"], vector["size"], path)
        leaves = [unhex(data) for data in vector["leaves"]]
        hashes = [merkle.leaf(data) for data in leaves]
        tree, expected = merkle.Tree(hashes), vector["expected"]
        assert {"root": tree.root.hex(), "paths": plain([tree.path(i) for i in range(len(leaves))])} == expected
        for index, node in enumerate(hashes):
            path = [unhex(node) for node in expected["paths"][index]]
            assert merkle.root_of_path(node, index, len(leaves), path).hex() == expected["root"]
    if "expected" in vector:
        assert tree_hash(leaves).hex() == expected["root"]
        assert plain([tree_path(index, leaves) for index in range(len(leaves))]) == expected["paths"]


@vectors("shamir")
@pytest.mark.clause("3.5.1", "3.5.3")
def test_shamir(vector: Vector) -> None:
    prime, threshold = 2**521 - 1, vector["threshold"]
    if "secret" in vector:
        coefficients = [unhex(c) for c in vector["coefficients"]]
        highest_first = coefficients[::-1]
        secret = unhex(vector["secret"])
        made = shamir.split(secret, threshold, vector["points"], lambda _: highest_first.pop(0))
        assert [{"point": point, "share": share.hex()} for point, share in made.items()] == vector["expected"]
        polynomial = [int.from_bytes(c, "big") for c in (secret, *coefficients)]
        for point, share in zip(vector["points"], vector["expected"], strict=True):
            value = sum(c * point**power for power, c in enumerate(polynomial)) % prime
            assert share == {"point": point, "share": value.to_bytes(66, "big").hex()}
        assert shamir.combine(made, threshold) == secret
        assert len(polynomial) == threshold
        return
    shares = {share["point"]: unhex(share["share"]) for share in vector["shares"]}
    with outcome(vector):
        assert shamir.combine(shares, threshold).hex() == vector["expected"]
    if "expected" in vector:
        used = {point: int.from_bytes(share, "big") for point, share in [*shares.items()][:threshold]}
        total = 0
        for x, y in used.items():
            for other in used.keys() - {x}:
                y = y * -other * pow(x - other, -1, prime)  # noqa: PLW2901
            total += y
        assert (total % prime).to_bytes(32, "big").hex() == vector["expected"]


def sealing_key(suite: str, private: Mapping[str, str]) -> tuple[Any, Any, bytes, bytes]:
    """ML-KEM key, key of the curve, and the public bytes of both."""
    seed = unhex(private["ml_kem"])
    if suite == Suite.DEFAULT:
        small, x25519 = (
            MLKEM768PrivateKey.from_seed_bytes(seed),
            X25519PrivateKey.from_private_bytes(unhex(private["x25519"])),
        )
        return small, x25519, small.public_key().public_bytes_raw(), x25519.public_key().public_bytes_raw()
    large = MLKEM1024PrivateKey.from_seed_bytes(seed)
    p384 = ec.derive_private_key(int(private["p384"], 16), ec.SECP384R1())
    point = p384.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return large, p384, large.public_key().public_bytes_raw(), point


def opened_by_hand(vector: Vector) -> bytes:
    """RFC 9180, sections 5.1 and 6.1, with the hybrid KEMs of draft-ietf-hpke-pq, which combine with SHA3-256."""
    mlkem, curve, _, public = sealing_key(vector["suite"], vector["private_key"])
    box = unhex(vector["sealed"])
    if vector["suite"] == Suite.DEFAULT:
        first, end, name, numbers, label = 1088, 1088 + 32, "sha256", (0x647A, 1, 2), rb"\.//^\ "[:-1]
        share = curve.exchange(X25519PublicKey.from_public_bytes(box[first:end]))
    else:
        first, end, name, numbers, label = 1568, 1568 + 97, "sha384", (0x0051, 2, 2), b"MLKEM1024-P384"
        share = curve.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), box[first:end]))
    combined = mlkem.decapsulate(box[:first]) + share + box[first:end] + public + label
    ids = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in numbers)

    def extract(salt: bytes, purpose: bytes, secret: bytes) -> bytes:
        empty = bytes(hashlib.new(name).digest_size)
        return hmac.digest(salt or empty, b"HPKE-v1" + ids + purpose + secret, name)

    secret = extract(hashlib.sha3_256(combined).digest(), b"secret", b"")
    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", unhex(vector["info"]))

    def expand(purpose: bytes, size: int) -> bytes:
        return hkdf_expand(name, secret, size.to_bytes(2, "big") + b"HPKE-v1" + ids + purpose + context, size)

    return AESGCM(expand(b"key", 32)).decrypt(expand(b"base_nonce", 12), box[end:], b"")


@vectors("seal")
@pytest.mark.clause("3.3.1", "3.3.2", "5.1.3")
def test_seal(vector: Vector) -> None:
    suite, info = Suite(vector["suite"]), unhex(vector["info"])
    if "private_key" not in vector:
        with outcome(vector):
            sealed.check_public(suite, unhex(vector["public_key"]), party="silo")
        with outcome(vector):
            sealed.seal(suite, unhex(vector["public_key"]), unhex(vector["text"]), info)
        return
    mlkem, curve, *public = sealing_key(suite, vector["private_key"])
    kind = hpke.MLKEM768X25519PrivateKey if suite is Suite.DEFAULT else hpke.MLKEM1024P384PrivateKey
    key = sealed.SealingKey(suite, kind(mlkem, curve), b"".join(public))
    with outcome(vector):
        assert key.open(unhex(vector["sealed"]), info).hex() == vector["expected"]
    if "expected" in vector:
        assert key.public_bytes.hex() == vector["public_key"]
        again = sealed.seal(suite, key.public_bytes, b"text", info)
        assert key.open(again, info) == b"text"
        assert again != sealed.seal(suite, key.public_bytes, b"text", info)
        purpose, sender, recipient = (vector[name].encode() for name in ("purpose", "sender", "recipient"))
        digest = unhex(vector["participants"])
        assert info == b"sparsilo/1 " + purpose + b"\x00" + digest + sender + b"\x00" + recipient
        assert opened_by_hand(vector).hex() == vector["expected"]
        extra = {Suite.DEFAULT: 1088 + 32 + 16, Suite.FIPS: 1568 + 97 + 16}[suite]
        assert len(unhex(vector["sealed"])) == len(unhex(vector["expected"])) + extra


@vectors("signature")
@pytest.mark.clause("3.0.2", "3.1.1", "3.1.2")
def test_signature(vector: Vector) -> None:
    suite, public = Suite(vector["suite"]), unhex(vector["public_key"])
    context, message = unhex(vector["context"]), unhex(vector["message"])
    with outcome(vector):
        signature = unhex(vector.get("expected") or vector["signature"])
        signing.verify(suite, public, signature, context, message, party="silo")
    if "expected" in vector:
        key = signing.SigningKey.from_bytes(unhex(vector["private_key"]), suite)
        assert key.public_bytes == public
        assert (key.sign(context, message) == signature) == vector["reproducible"]
        library_verify(suite, public, signature, context, message)
        if suite is Suite.DEFAULT:
            library = Ed25519PrivateKey.from_private_bytes(unhex(vector["private_key"]))
            assert library.sign(signed_bytes(context, message)) == signature


@vectors("pair_seed")
@pytest.mark.clause("3.4.1")
def test_pair_seed(vector: Vector) -> None:
    participants, ends = unhex(vector["participants"]), (vector["silo"], vector["peer"])
    contributions = {end: unhex(data) for end, data in vector["contributions"].items()}
    plan = decode_plan(unhex(vector["plan"]))
    assert transcript.pair_seed(participants, plan, *ends, contributions).hex() == vector["expected"]
    low, high = sorted(ends, key=Cohort(plan.encoded).silos.index)
    assert pair_seed(participants, low, high, contributions[low] + contributions[high]).hex() == vector["expected"]


@vectors("bundle")
@pytest.mark.clause("3.6.1", "5.6.4")
def test_bundle(vector: Vector) -> None:
    key, participants, silo = unhex(vector["key"]), unhex(vector["participants"]), vector["silo"]
    if "error" in vector:
        with outcome(vector):
            transcript.open_bundle(key, participants, silo, vector["peers"], unhex(vector["bundle"]))
        return
    seeds = {peer: unhex(seed) for peer, seed in vector["seeds"].items()}
    bundle = unhex(vector["expected"])
    assert transcript.seal_bundle(key, participants, silo, seeds) == bundle
    assert transcript.open_bundle(key, participants, silo, sorted(seeds), bundle) == seeds
    data = b"sparsilo/1 bundle\x00" + participants + silo.encode() + b"\x00"
    assert AESGCM(key).decrypt(bytes(12), bundle, data) == b"".join(seeds[peer] for peer in sorted(seeds))
    assert len(bundle) == 32 * len(seeds) + 16


@vectors("participants_digest")
@pytest.mark.clause("3.2.1")
def test_participants_digest(vector: Vector) -> None:
    round_, canonical = unhex(vector["round"]), unhex(vector["participants"])
    message = decode(round_pb2.Participants, canonical, MAX_MESSAGE_BYTES)
    assert transcript.participants_digest(round_, message).hex() == vector["expected"]
    names = ("silo", "sealing_key", "coin_commitment", "signature")
    parts = [[key["silo"].encode(), *(unhex(key[name]) for name in names[1:])] for key in vector["keys"]]
    keys = [b"".join(text_field(at + 1, part) for at, part in enumerate(key)) for key in parts]
    by_hand = b"".join(text_field(1, key) for key in keys)
    assert by_hand == canonical
    assert sha256(b"sparsilo/1 participants", round_, by_hand).hex() == vector["expected"]


@vectors("coin_commitment")
@pytest.mark.clause("3.7.1")
def test_coin_commitment(vector: Vector) -> None:
    round_, silo, coin = unhex(vector["round"]), vector["silo"], unhex(vector["coin"])
    assert transcript.coin_commitment(round_, silo, coin).hex() == vector["expected"]
    assert sha256(b"sparsilo/1 coin", round_, silo.encode(), b"\x00", coin).hex() == vector["expected"]


@vectors("joint_coin")
@pytest.mark.clause("3.7.2", "5.8.2", "5.8.3")
def test_joint_coin(vector: Vector) -> None:
    round_, participants = unhex(vector["round"]), unhex(vector["participants"])
    commitments = {silo: unhex(commitment) for silo, commitment in vector["commitments"].items()}
    coins = [(coin["silo"], unhex(coin["coin"])) for coin in vector["coins"]]
    message = round_pb2.Coins(coins=[round_pb2.SiloCoin(silo=silo, coin=coin) for silo, coin in coins])
    with outcome(vector):
        transcript.check_coins(message, round_, commitments, "aggregator")
        assert transcript.joint_coin(participants, message).hex() == vector["expected"]
    if "expected" in vector:
        for silo, coin in coins:
            assert commitments[silo] == sha256(b"sparsilo/1 coin", round_, silo.encode(), b"\x00", coin)
        listed_ = b"".join(text_field(1, text_field(1, silo.encode()) + text_field(2, coin)) for silo, coin in coins)
        assert sha256(b"sparsilo/1 joint coin", participants, listed_).hex() == vector["expected"]


@vectors("auditors")
@pytest.mark.clause("3.7.5")
def test_auditors(vector: Vector) -> None:
    coin, chunks, signers, wanted = (vector[name] for name in ("joint_coin", "chunks", "signers", "auditors"))
    assert transcript.auditors(unhex(coin), chunks, signers, wanted).tolist() == vector["expected"]
    by_hand = [auditor_places(unhex(coin), chunk, signers, wanted) for chunk in range(chunks)]
    assert by_hand == vector["expected"]


@vectors("wire")
@pytest.mark.clause("1.3", "1.4")
def test_wire(vector: Vector) -> None:
    data = unhex(vector["bytes"])
    (kind,) = (getattr(m, vector["message"]) for m in (plan_pb2, round_pb2, words_pb2) if hasattr(m, vector["message"]))
    with outcome(vector):
        message = decode(kind, data, MAX_MESSAGE_BYTES)
        assert encode(message) == data
    if "expected" in vector:
        assert spelled(vector["expected"]) == data
        assert spelled(plain(listed(message))) == data
        assert len(data) <= 4_194_304


@vectors("plan")
@pytest.mark.clause("1.3", "2.1.1", "2.2.1", "2.2.2", "2.4.1", "2.4.3", "2.4.4", "2.4.6", "2.5.1")
def test_plan(vector: Vector) -> None:
    with outcome(vector):
        plan = decode_plan(unhex(vector["bytes"]))
    if "error" in vector:
        return
    by_hand, expected = Cohort(plan.encoded), vector["expected"]
    assert plan.digest.hex() == by_hand.digest.hex() == expected["digest"]
    assert len(plan.message.rounds) == len(by_hand.fields[11]) == len(expected["rounds"])
    for index, found in enumerate(expected["rounds"]):
        layout = layout_of(plan, index)
        assert plan.round_digest(index, b"").hex() == by_hand.round_digest(index).hex() == found["digest"]
        sections = [(section["name"], section["lanes"], section["width"]) for section in found["sections"]]
        assert [(section.name, section.lanes, section.width) for section in layout.sections] == sections
        assert by_hand.sections(index) == sections
        assert [chunk.words for chunk in layout.chunks] == found["words_of_chunks"]
        table = [1 + -(-(end - start) // (64 // width)) for _, width, start, end in by_hand.chunks(index)]
        assert table == found["words_of_chunks"]


@vectors("transcript")
@pytest.mark.clause("2.2.2", "3.1.2", "5.1.4", "5.4.3", "5.5.3", "5.6.6", "5.7.3")
@pytest.mark.clause("5.8.2", "5.8.3", "5.9.2", "5.9.4", "5.10.1")
@pytest.mark.clause("6.4.1", "6.4.2", "6.7.1", "6.7.2", "6.7.3")
def test_transcript(vector: Vector) -> None:
    uploads = {silo: [unhex(data) for data in chunks] for silo, chunks in vector["uploads"].items()}
    vectors_ = [*uploads.items(), ("", [unhex(data) for data in vector["sum"]])]
    roster = {silo: unhex(key) for silo, key in vector["roster"].items()}
    with outcome(vector):
        verified = verify_transcript(unhex(vector["transcript"]), roster)
        layout, opened = verified.round.layout, {}
        for chunk in layout.chunks:
            committed = [
                words_pb2.CommittedChunk(silo=silo, words=data[chunk.index], path=tree_path(chunk.index, data))
                for silo, data in vectors_
            ]
            verified.recompute(chunk.index, committed)
            words = np.frombuffer(committed[-1].words, "<u8")
            opened.setdefault(chunk.section.name, []).extend(open_chunk(chunk, words, len(uploads)).tolist())
        assert {"survivors": [*verified.survivors], "lanes": opened} == vector["expected"]
    if "expected" in vector:
        by_hand = Published(vector)
        by_hand.check_plan_phase()
        by_hand.check_signatures()
        by_hand.check_seeds_and_coins()
        by_hand.check_words(vector)
        check_values(by_hand.cohort.sections(by_hand.index), vector["expected"]["lanes"], len(by_hand.survivors))


class Published:
    """5.10.1: a transcript, read and checked by hand, with what each silo kept to itself."""

    def __init__(self, vector: Vector) -> None:
        self.message = fields_of(unhex(vector["transcript"]))
        self.cohort, self.index = Cohort(self.message[1][0]), self.message.get(2, [0])[0]
        self.private, self.survivors = vector["private"], vector["expected"]["survivors"]
        self.round = self.cohort.round_digest(self.index)
        self.participants = sha256(b"sparsilo/1 participants", self.round, self.message[4][0])
        self.joint = sha256(b"sparsilo/1 joint coin", self.participants, self.message[9][0])
        self.roots = {silo: root[2][0] for silo, root in self.by_silo(5).items()}

    def by_silo(self, field: int, inner: int = 1) -> dict[str, dict[int, list[Any]]]:
        """The parts of a message that name a silo each."""
        parts = map(fields_of, fields_of(self.message[field][0]).get(inner, []))
        return {part[1][0].decode(): part for part in parts}

    def pair(self, one: str, other: str) -> bytes:
        low, high = sorted((one, other), key=self.cohort.silos.index)
        both = unhex(self.private[low]["contributions"][high]) + unhex(self.private[high]["contributions"][low])
        return pair_seed(self.participants, low, high, both)

    def masks(self, silo: str) -> list[tuple[int, bytes]]:
        """6.4."""
        point = self.cohort.silos.index
        peers = [peer for peer in self.cohort.silos if peer != silo]
        pairwise = [(1 if point(silo) < point(peer) else -1, self.pair(silo, peer)) for peer in peers]
        return [(1, unhex(self.private[silo]["self_seed"])), *pairwise]

    def check_plan_phase(self) -> None:
        joined = self.by_silo(4)
        assert list(joined) == self.cohort.silos == sorted(self.private)
        for silo, key in joined.items():
            own = self.private[silo]
            *_, mlkem, point = sealing_key(self.cohort.suite, own["sealing_key"])
            assert key[2][0] == mlkem + point
            assert key[3][0] == sha256(b"sparsilo/1 coin", self.round, silo.encode(), b"\x00", unhex(own["coin"]))
            self.cohort.verify(silo, key[4][0], b"acceptance" + self.round, key[2][0] + key[3][0])

    def check_signatures(self) -> None:
        assert list(self.roots) == self.survivors
        for silo, root in self.by_silo(5).items():
            self.cohort.verify(silo, root[3][0], b"upload root" + self.participants, root[2][0])
        for field, context, signed in (
            (6, b"survivors", self.message[5][0]),
            (8, b"opening", self.message[7][0]),
            (10, b"verdict", self.message[7][0] + self.joint),
        ):
            assert self.by_silo(field).keys() <= set(self.survivors)
            for silo, signature in self.by_silo(field).items():
                self.cohort.verify(silo, signature[2][0], context + self.participants, signed)

    def check_seeds_and_coins(self) -> None:
        opening = fields_of(self.message[7][0])
        lost = [silo for silo in self.cohort.silos if silo not in self.survivors]
        seeds = [(silo, unhex(self.private[silo]["self_seed"])) for silo in self.survivors]
        pairs = [(one, other, self.pair(one, other)) for one in lost for other in self.survivors]
        assert [(seed[1][0].decode(), seed[2][0]) for seed in map(fields_of, opening[2])] == seeds
        assert [(p[1][0].decode(), p[2][0].decode(), p[3][0]) for p in map(fields_of, opening.get(3, []))] == pairs
        coins = {silo: coin[2][0].hex() for silo, coin in self.by_silo(9).items()}
        assert coins == {silo: self.private[silo]["coin"] for silo in self.by_silo(8)}

    def check_words(self, vector: Vector) -> None:
        leaves: dict[str, list[bytes]] = {silo: [] for silo in (*self.survivors, "")}
        signers = list(self.by_silo(8))
        for number, (section, width, start, end) in enumerate(self.cohort.chunks(self.index)):
            values = [self.private[silo]["lanes"][section][start:end] for silo in self.survivors]
            summed = [sum(lane) for lane in zip(*values, strict=True)]
            assert vector["expected"]["lanes"][section][start:end] == summed
            leaves[""].append(bytes_of([len(self.survivors), *packed(summed, width)]))
            for silo, own in zip(self.survivors, values, strict=True):
                words = [1, *packed(own, width)]
                for sign, seed in self.masks(silo):
                    keystream = mask(seed, self.participants, number, len(words))
                    words = [word + sign * m for word, m in zip(words, keystream, strict=True)]
                leaves[silo].append(bytes_of(words))
            colluders = self.cohort.fields.get(8, [0])[0]
            places = auditor_places(self.joint, number, len(signers), max(2, colluders + 1))
            judged = [signers[place] in self.by_silo(10) for place in places]
            assert all(judged) if colluders else any(judged)  # 5.9.4
        assert plain(leaves) == {**vector["uploads"], "": vector["sum"]}
        sum_root = fields_of(self.message[7][0])[1][0]
        assert {silo: tree_hash(chunks) for silo, chunks in leaves.items()} == {**self.roots, "": sum_root}


def check_values(sections: Sequence[tuple[str, int, int]], lanes_: Mapping[str, list[int]], survivors: int) -> None:
    """6.7.3."""
    if "tokens" in lanes_:
        assert len(set(lanes_["tokens"])) == 1
        assert lanes_["tokens"][0] > 0
        return
    for (votes, count, _), (counts, groups, _) in zip(sections[::2], sections[1::2], strict=True):
        size = count // groups
        assert max(lanes_[votes]) <= survivors
        assert [sum(lanes_[votes][at * size : (at + 1) * size]) for at in range(groups)] == lanes_[counts]
