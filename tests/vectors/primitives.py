"""Cases of sections 3, 5 and 6: one primitive each."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crypto.backends.double_masking import transcript
from crypto.encoding import fixed_point, lanes
from crypto.encoding.layout import Layout, Section, pack_chunk
from crypto.encoding.wire import encode
from crypto.names import Suite
from crypto.plan_rules import checked_plan
from crypto.primitives import merkle, sealed, shamir, signing
from crypto.primitives.mask_stream import add_masks
from crypto.primitives.signing import SigningKey
from sparsilo.v1 import round_pb2
from vectors.case import (
    P384_ORDER,
    SILOS,
    Case,
    Cases,
    Fields,
    altered,
    case,
    entropy,
    kept,
    p384_key,
    sealing_key,
    signing_key,
)
from vectors.messages import plan_message

ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
CONTEXT: Final = entropy("participants", 32)
"""Wherever a participants digest is wanted and it does not matter whose."""


# 6: words


def mask_stream() -> Cases:
    def of(
        name: str, what: str, chunk: int, sign: Any, words: bytes, seed: str = "seed", context: str = "context"
    ) -> Case:
        out, repeated = np.frombuffer(words, "<u8").copy(), words[:8] * (len(words) // 8) == words
        given = {"seed": entropy(seed, 32), "context": entropy(context, 32)}
        add_masks(out, [(given["seed"], sign)], given["context"], chunk)
        result: Any = out.tobytes()
        shown: Any = [{"repeat": words[:8], "times": len(words) // 8}] if repeated and len(words) > 1000 else words
        if len(result) > 1000:
            result = {"length": len(result), "sha256": sha256(result).digest()}
        return case(name, what, "6.3.1", "6.3.2", **given, chunk=chunk, sign=sign, words=shown, expected=result)

    one, zeros = (1).to_bytes(8, "little"), bytes(40)
    five = one + entropy("words", 32)
    yield of("one-word", "The first keystream word of chunk 0, added to zero.", 0, 1, bytes(8))
    yield of("three-words", "A length that is no multiple of the AES block, added to zeros.", 0, 1, bytes(24))
    yield of("added", "A header word of 1 and four body words, mask added.", 0, 1, five)
    yield of("subtracted", "The same words, mask subtracted.", 0, -1, five)
    yield of("carry", "Words of all ones: the sum is mod 2^64.", 0, 1, b"\xff" * 40)
    yield of("borrow", "Words of zeros: the difference is mod 2^64.", 0, -1, zeros)
    yield of("chunk-1", "The next chunk has another keystream.", 1, 1, zeros)
    yield of("chunk-256", "The chunk number is little-endian.", 256, 1, zeros)
    yield of("chunk-2-40", "The chunk number has 8 bytes.", 2**40 + 3, 1, zeros)
    yield of("other-context", "Another context.", 0, 1, zeros, context="another context")
    yield of("other-seed", "Another seed.", 0, 1, zeros, seed="another seed")
    yield of("16385-words", "One word more than 128 KiB.", 7, 1, one * 16_385)
    yield of("40000-words", "A chunk longer than 256 KiB.", 7, -1, one * 40_000)


def lane() -> Cases:
    def of(name: str, what: str, width: int, values: Sequence[int]) -> Case:
        words = lanes.pack(np.array(values, np.uint64), width).astype("<u8").tobytes()
        return case(name, what, "2.4.2", "6.1.1", width=width, values=values, expected=words)

    bits = [byte & 1 for byte in entropy("bits", 70)]
    yield of("width-1", "64 lanes a word, the second word partly filled.", 1, bits)
    yield of("width-2", "3 silos: 2 bits, 32 lanes a word.", 2, [0, 1, 2, 3, *bits[:60]])
    yield of("width-3", "4 to 7 silos: 21 lanes a word, bit 63 belongs to none.", 3, [7, 0, 5, *bits[:19], 6])
    yield of("width-3-bits", "The same width with values of 0 and 1, as a silo packs its keep mask.", 3, bits[:50])
    yield of("width-8", "200 silos: 8 lanes a word.", 8, [200, 0, 255, 1, 2, 3, 4, 5, 128])
    yield of("width-13", "4 lanes a word, 12 bits belong to none.", 13, [8191, 0, 1, 4096, 8190])
    yield of("width-33", "One lane a word.", 33, [2**33 - 1, 0, 1])
    yield of("width-64", "A lane is a word.", 64, [2**64 - 1, 0, 1, 2**63])
    yield of("one-lane", "One lane of 7 bits.", 7, [100])
    for width, values in ((2, [1, 4, 0]), (1, [0, 2]), (13, [0, 8192])):
        what = f"A value needs more than {width} bits."
        yield case(f"too-wide-{width}", what, "6.1.2", width=width, values=values, error="plan")
    for name, width, count, bit, what in (
        ("outside-last-lane", 3, 2, 6, "A bit above the last lane is set."),
        ("outside-last-bit", 3, 2, 63, "The highest bit is set, where two lanes of three bits are."),
        ("outside-full-word", 3, 21, 63, "A full word of lanes of 3 bits leaves bit 63, which is set."),
        ("outside-first-word", 3, 22, 63, "The same in a word before the last."),
        ("outside-wide", 33, 1, 33, "A bit above a lane of 33 bits is set."),
    ):
        words = (1 << bit).to_bytes(lanes.words_for(count, width) * 8, "little")
        yield case(name, what, "6.7.2", width=width, lanes=count, words=words, error="corrupt_sum")


def chunk() -> Cases:
    sections = [{"name": "votes w", "lanes": 30, "width": 3}, {"name": "nonzero counts w", "lanes": 2, "width": 7}]
    layout = Layout(tuple(Section(**section) for section in sections), 1)  # type: ignore[arg-type]
    given: Fields = {"sections": sections, "chunk_words": 1}
    keep = [byte & 1 for byte in entropy("chunk", 30)]
    for index, values, what in (
        (0, keep[:21], "The first chunk: a full body word."),
        (1, keep[21:], "The second chunk of the section: its last 9 lanes."),
        (2, [11, 5], "The next section begins a chunk."),
    ):
        words = pack_chunk(layout.chunks[index], np.array(values, np.uint64)).astype("<u8").tobytes()
        clauses = ("2.4.6", "6.1.1", "6.2.1")
        yield case(f"packed-{index}", what, *clauses, **given, chunk=index, values=values, expected=words)
    yield case("too-wide", "A value does not fit its lane.", "6.1.2", **given, chunk=2, values=[128, 0], error="plan")

    def words_of(*words: int) -> bytes:
        return b"".join(word.to_bytes(8, "little") for word in words)

    given |= {"chunk": 1, "survivors": 3}
    summed = [3, 0, 2, 1, 3, 3, 0, 1, 2]
    body = sum(value << 3 * at for at, value in enumerate(summed))
    opened = words_of(3, body)
    yield case("opened", "The sum over three survivors.", "6.1.1", "6.7.2", **given, words=opened, expected=summed)
    for name, words, what in (
        ("header-low", words_of(2, body), "The header counts a silo less than the survivors."),
        ("header-high", words_of(4, body), "The header counts a silo more than the survivors."),
        ("too-short", words_of(3), "The body word is missing."),
        ("too-long", words_of(3, body, 0), "There is a word too many."),
        ("outside-lanes", words_of(3, body | 1 << 27), "A bit above the last lane is set."),
        ("outside-word", words_of(3, body | 1 << 63), "Bit 63, which no lane of 3 bits has, is set."),
    ):
        yield case(name, what, "6.7.2", **given, words=words, error="corrupt_sum")


def likelihood() -> Cases:
    for name, value, what in (
        ("zero", "0", "Zero."),
        ("one-and-a-half", "1.5", "An exact value."),
        ("half-to-even-down", "2.98023223876953125e-08", "2^-25, half of the smallest step, goes to the even 0."),
        ("half-to-even-up", "8.94069671630859375e-08", "3 * 2^-25, a step and a half, goes to the even 2."),
        ("large", "123456789.0625", "A large value."),
    ):
        yield case(name, what, "2.4.4", value=value, silos=4, expected=fixed_point.encode(float(value), 24, 4))
    for name, value, what in (
        ("negative", "-0.5", "A value below zero."),
        ("too-large", "274877906944", "2^38: four such values reach 2^64."),
        ("infinite", "inf", "Not a number."),
    ):
        yield case(name, what, "2.4.4", value=value, silos=4, error="plan")


def merkle_tree() -> Cases:
    for count in (1, 2, 3, 5, 7, 8, 13):
        leaves = [entropy(f"leaf {i}", 8 * (i % 3)) for i in range(count)]
        tree = merkle.Tree([merkle.leaf(data) for data in leaves])
        expected = {"root": tree.root, "paths": [tree.path(index) for index in range(count)]}
        what = f"A tree over {count} leaves and the path of each."
        yield case(f"{count}-leaves", what, "6.6.1", "5.9.1", leaves=leaves, expected=expected)
    leaf, path = merkle.leaf(leaves[12]), tree.path(12)  # the last of 13: it is moved up twice
    for name, index, size, nodes, what in (
        ("path-long", 12, 13, [*path, bytes(32)], "The path has a node too many."),
        ("path-short", 12, 13, path[:-1], "The path lacks its last node."),
        ("path-of-another", 3, 13, path, "The path has two nodes, as leaf 12 needs; leaf 3 needs four."),
        ("node-short", 12, 13, [path[0][:-1], *path[1:]], "A node has 31 bytes."),
        ("index-beyond", 13, 13, path, "There is no leaf 13 among 13."),
        ("no-leaves", 0, 0, [], "A tree of no leaves."),
    ):
        yield case(name, what, "5.9.1", leaf_hash=leaf, index=index, size=size, path=nodes, error="bad_upload")


# 3: primitives


def share() -> Cases:
    def polynomial(constant: int, coefficients: Sequence[int], point: int) -> bytes:
        value = sum(c * point**power for power, c in enumerate([constant, *coefficients])) % shamir.PRIME
        return value.to_bytes(66, "big")

    def split(name: str, what: str, secret: bytes, coefficients: Sequence[int], points: Iterable[int]) -> Case:
        given, points = [c.to_bytes(66, "big") for c in coefficients], list(points)
        highest_first = given[::-1]
        found = shamir.split(secret, len(given) + 1, points, lambda _: highest_first.pop(0))
        inputs: Fields = {"secret": secret, "threshold": len(given) + 1, "coefficients": given, "points": points}
        return case(name, what, "3.5.1", **inputs, expected=[{"point": p, "share": s} for p, s in found.items()])

    random = [int.from_bytes(entropy(f"coefficient {i}", 66), "big") % shamir.PRIME for i in range(13)]
    secret, most = entropy("secret", 32), shamir.PRIME - 1
    yield split("split-2-of-3", "A straight line.", secret, random[:1], [1, 2, 3])
    yield split("split-3-of-4", "A parabola.", secret, random[:2], [1, 2, 3, 4])
    yield split("split-14-of-20", "Degree 13.", secret, random, range(1, 21))
    yield split("split-gaps", "Points of the silos that are left.", secret, random[:2], [2, 3, 150, 200])
    yield split("split-zero", "The secret zero.", bytes(32), random[:1], [1, 2])
    yield split("split-largest", "The largest secret and coefficients.", b"\xff" * 32, [most] * 2, [1, 2, 3])

    def combine(name: str, what: str, given: Iterable[tuple[int, bytes]], **result: Any) -> Case:
        listed = [{"point": point, "share": share} for point, share in given]
        return case(name, what, "3.5.1" if "expected" in result else "3.5.3", shares=listed, threshold=3, **result)

    four = {point: polynomial(int.from_bytes(secret, "big"), random[:2], point) for point in (1, 2, 3, 4)}
    pairs = [*four.items()]
    small = [(point, polynomial(5, random[:2], point)) for point in (1, 2, 3)]
    yield combine("combine-exactly", "As many shares as the threshold.", pairs[:3], expected=secret)
    yield combine("combine-more", "One share more, on the polynomial.", pairs, expected=secret)
    yield combine("combine-any-order", "Other shares in another order.", pairs[:0:-1], expected=secret)
    yield combine("combine-small", "A secret of 31 zero bytes and one.", small, expected=(5).to_bytes(32, "big"))

    def instead(point: int, share: bytes) -> list[tuple[int, bytes]]:
        return [*(four | {point: share}).items()]

    spare = [pair for pair in instead(4, altered(four[4], -1)) if pair[0] != 3]
    beyond_prime = (int.from_bytes(four[4], "big") + shamir.PRIME).to_bytes(66, "big")
    root_at_4 = [random[0], -(5 + 4 * random[0]) * pow(16, -1, shamir.PRIME) % shamir.PRIME]
    zero = [(4, shamir.PRIME.to_bytes(66, "big")), *((point, polynomial(5, root_at_4, point)) for point in (1, 2))]
    beyond = [(point, polynomial(2**256, random[:2], point)) for point in (1, 2, 3)]
    for name, given, what in (
        ("altered-extra", instead(4, altered(four[4], -1)), "The share beyond the first three has another last bit."),
        ("altered-first", instead(1, altered(four[1], -1)), "The first share has another last bit; the fourth tells."),
        ("altered-exactly", spare, "No share to spare, and one has another last bit: the secret is out of range."),
        ("prime", zero, "The share at 4, which is 0, is spelled 2^521 - 1."),
        ("prime-more", [(4, beyond_prime), *pairs[:2]], "The share at 4 is itself and 2^521 - 1."),
        ("short", instead(1, four[1].removeprefix(b"\x00")), "A share has 65 bytes; the one that is missing is 0."),
        ("long", instead(4, b"\x00" + four[4]), "A share has 67 bytes; the one too many is 0."),
        ("too-few", pairs[:2], "Two shares where three are needed."),
        ("none", [], "No shares."),
        ("secret-out-of-range", beyond, "The polynomial's value at 0 is 2^256."),
    ):
        yield combine(name, what, given, error="bad_share")


def seal(renew: bool) -> Cases:
    for suite in Suite:
        key, private = sealing_key(suite, "recipient")
        _, other_private = sealing_key(suite, "another recipient")
        for purpose, size in (("contribution", 32), ("shares", 132)):
            name, text = f"{suite.profile}-{purpose}", entropy(f"text {purpose}", size)
            info = transcript.seal_info(purpose.encode(), CONTEXT, "alder", "cedar")
            box = kept(f"seal/{name}", "sealed", renew) or sealed.seal(suite, key.public_bytes, text, info)
            given = {
                "suite": suite,
                "private_key": private,
                "public_key": key.public_bytes,
                "info": info,
                "sealed": box,
            }
            parts = {"purpose": purpose, "participants": CONTEXT, "sender": "alder", "recipient": "cedar"}
            what = f"A {purpose} message; sealing is random, this is one result."
            yield case(name, what, "3.3.1", "3.3.2", **given, **parts, expected=text)
        at_share = 1088 if suite is Suite.DEFAULT else 1568
        info_of = transcript.seal_info
        changed: dict[str, tuple[str, Fields]] = {
            "altered-ml-kem": ("A bit of the ML-KEM ciphertext is another.", {"sealed": altered(box, 5)}),
            "altered-share": ("A bit of the curve's share is another.", {"sealed": altered(box, at_share + 9)}),
            "altered-text": ("A bit of the encrypted text is another.", {"sealed": altered(box, -20)}),
            "altered-tag": ("A bit of the AEAD tag is another.", {"sealed": altered(box, -1)}),
            "cut": ("The last byte is missing.", {"sealed": box[:-1]}),
            "empty": ("Nothing was sealed.", {"sealed": b""}),
            "other-key": ("It was sealed to another key.", {"private_key": other_private}),
            "other-purpose": ("Another purpose.", {"info": info_of(b"contribution", CONTEXT, "alder", "cedar")}),
            "other-round": ("Another digest.", {"info": info_of(b"shares", altered(CONTEXT, 0), "alder", "cedar")}),
            "other-sender": ("Another sender.", {"info": info_of(b"shares", CONTEXT, "birch-2", "cedar")}),
            "other-direction": ("Both ends exchanged.", {"info": info_of(b"shares", CONTEXT, "cedar", "alder")}),
        }
        base: Fields = {"suite": suite, "private_key": private, "info": info, "sealed": box}
        for name, (what, change) in changed.items():
            yield case(f"{suite.profile}-{name}", what, "3.3.1", "3.3.2", **(base | change), error="bad_seal")
        for name, (what, public) in malformed_sealing_keys(suite, key.public_bytes).items():
            given = {"suite": suite, "public_key": public, "info": b"", "text": b""}
            yield case(f"{suite.profile}-key-{name}", what, "3.3.1", "5.1.3", **given, error="bad_seal")


def malformed_sealing_keys(suite: Suite, public: bytes) -> dict[str, tuple[str, bytes]]:
    mlkem_bytes = 1184 if suite is Suite.DEFAULT else 1568
    mlkem, point = public[:mlkem_bytes], public[mlkem_bytes:]
    keys = {
        "short": ("A public key one byte too short.", public[:-1]),
        "long": ("A public key one byte too long.", public + b"\x00"),
        "ml-kem-range": ("The first ML-KEM coefficient is 4095, not below 3329.", b"\xff\xff" + mlkem[2:] + point),
    }
    if suite is Suite.DEFAULT:
        return keys | {"low-order": ("The X25519 point is of low order: zero.", mlkem + bytes(32))}
    compressed = bytes([2 + point[-1] % 2]) + point[1:49]
    return keys | {
        "off-curve": ("The P-384 point is not on its curve.", mlkem + altered(point, -1)),
        "compressed": ("The P-384 point is compressed.", mlkem + compressed),
    }


def signature(renew: bool) -> Cases:
    for suite in Suite:
        key = signing_key(suite, "signer")
        context, message = b"survivors" + CONTEXT, entropy("message", 100)
        own: Fields = {"suite": suite, "private_key": key.to_bytes(), "public_key": key.public_bytes}
        nonce = "" if suite is Suite.DEFAULT else ", with the nonce of RFC 6979"
        for name, ctx, msg in (
            ("plain", context, message),
            ("empty", b"", b""),
            ("long", entropy("context", 300), b"m"),
        ):
            what = f"A context of {len(ctx)} bytes and a message of {len(msg)}{nonce}."
            given = own | {"context": ctx, "message": msg, "reproducible": True}
            yield case(f"{suite.profile}-{name}", what, "3.1.1", **given, expected=key.sign(ctx, msg))
        if suite is Suite.FIPS:
            given = own | {"context": context, "message": message, "reproducible": False}
            made = kept("signature/fips-random-nonce", "expected", renew) or random_nonce(key, context, message)
            what = "A random nonce: another signature would verify as well."
            yield case("fips-random-nonce", what, "3.1.1", "3.0.2", **given, expected=made)
        right = key.sign(context, message)
        base: Fields = {"suite": suite, "public_key": key.public_bytes}
        base |= {"context": context, "message": message, "signature": right}
        moved = {"context": context + message[:1], "message": message[1:]}
        half = len(right) // 2
        changed: dict[str, tuple[str, Fields]] = {
            "other-context": ("It was made for another purpose.", {"context": b"opening" + CONTEXT}),
            "other-message": ("It was made over another message.", {"message": altered(message, 0)}),
            "moved-boundary": ("The context ends a byte later.", moved),
            "altered-first-half": ("A bit of its first half is another.", {"signature": altered(right, 0)}),
            "altered-second-half": ("A bit of its second half is another.", {"signature": altered(right, half)}),
            "short": ("Its last byte is missing.", {"signature": right[:-1]}),
            "long": ("It has a byte more.", {"signature": right + b"\x00"}),
            "zero": ("It is all zeros.", {"signature": bytes(len(right))}),
            **{
                name: (what, {"signature": other})
                for name, (what, other) in second_forms(key, context, message).items()
            },
            **{
                f"key-{name}": (what, {"public_key": public})
                for name, (what, public) in malformed_signing_keys(suite, key.public_bytes).items()
            },
        }
        for name, (what, change) in changed.items():
            clause = "3.0.2" if (suite, name) == (Suite.FIPS, "high-s") else "3.1.2" if "key-" in name else "3.1.1"
            yield case(f"{suite.profile}-{name}", what, clause, **(base | change), error="bad_signature")


def ecdsa(key: SigningKey, context: bytes, message: bytes, *, deterministic: bool) -> bytes:
    """The library's signature, DER."""
    signed = b"sparsilo/1 signature" + len(context).to_bytes(2, "little") + context + message
    algorithm = ec.ECDSA(SHA384(), deterministic_signing=deterministic)
    return p384_key(key.to_bytes()).sign(signed, algorithm)


def random_nonce(key: SigningKey, context: bytes, message: bytes) -> bytes:
    r, s = decode_dss_signature(ecdsa(key, context, message, deterministic=False))
    return r.to_bytes(48, "big") + min(s, P384_ORDER - s).to_bytes(48, "big")


def second_forms(key: SigningKey, context: bytes, message: bytes) -> dict[str, tuple[str, bytes]]:
    """Signatures that a lenient verifier accepts."""
    right = key.sign(context, message)
    if key.suite is Suite.DEFAULT:
        s = int.from_bytes(right[32:], "little") + ED25519_ORDER
        return {"high-s": ("S is the same number plus the group order.", right[:32] + s.to_bytes(32, "little"))}
    s = P384_ORDER - int.from_bytes(right[48:], "big")
    return {
        "high-s": ("s is the order less itself, which ECDSA would accept.", right[:48] + s.to_bytes(48, "big")),
        "der": ("The signature is in DER.", ecdsa(key, context, message, deterministic=True)),
    }


def malformed_signing_keys(suite: Suite, public: bytes) -> dict[str, tuple[str, bytes]]:
    other = signing_key(suite, "another signer").public_bytes
    keys = {"other": ("The key is another silo's.", other), "short": ("The key has a byte less.", public[:-1])}
    if suite is Suite.DEFAULT:
        return keys | {
            "no-point": ("No point has this y.", (2).to_bytes(32, "little")),
            "high-y": ("y is not below the field's prime.", (2**255 - 1).to_bytes(32, "little")),
        }
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public)
    uncompressed = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return keys | {
        "no-point": ("No point has this x.", b"\x02" + (1).to_bytes(48, "big")),
        "uncompressed": ("The point is uncompressed.", uncompressed),
    }


def pair_seed() -> Cases:
    plan = checked_plan(plan_message())
    for name, silo, peer, what in (
        ("first-and-last", "alder", "cedar", "The first silo of the roster and the last."),
        ("from-the-other-end", "cedar", "alder", "The same pair, seen from the other end: the same seed."),
        ("byte-order", "birch-2", "birch-10", "birch-10 is before birch-2 in the roster."),
    ):
        contributions = {end: entropy(f"contribution of {end}", 32) for end in (silo, peer)}
        given: Fields = {"plan": plan.encoded, "participants": CONTEXT, "silo": silo, "peer": peer}
        seed = transcript.pair_seed(CONTEXT, plan, silo, peer, contributions)
        yield case(name, what, "3.4.1", **given, contributions=contributions, expected=seed)


def bundle() -> Cases:
    seeds = {peer: entropy(f"pair seed {peer}", 32) for peer in SILOS[1:]}
    given: Fields = {"key": entropy("bundle key", 32), "participants": CONTEXT, "silo": "alder"}
    made = transcript.seal_bundle(given["key"], CONTEXT, "alder", seeds)
    yield case("three-peers", "The pair seeds of three peers.", "3.6.1", **given, seeds=seeds, expected=made)
    changed: dict[str, tuple[str, Fields]] = {
        "altered": ("A bit of the bundle is another.", {"bundle": altered(made, 0)}),
        "other-key": ("Another bundle key.", {"key": altered(given["key"], 0)}),
        "other-silo": ("It is said to be another silo's.", {"silo": "birch-2"}),
        "other-round": ("Another participants digest.", {"participants": altered(CONTEXT, 0)}),
    }
    given |= {"peers": list(seeds), "bundle": made}
    for name, (what, change) in changed.items():
        yield case(name, what, "3.6.1", "5.6.4", **(given | change), error="bad_share")


def participants_digest() -> Cases:
    for suite in Suite:
        keys = [
            {
                "silo": silo,
                "sealing_key": entropy(f"sealing key {silo}", sealed.public_bytes(suite)),
                "coin_commitment": entropy(f"commitment {silo}", 32),
                "signature": entropy(f"signature {silo}", signing.signature_bytes(suite)),
            }
            for silo in SILOS[:3]
        ]
        message = round_pb2.Participants(keys=[round_pb2.SignedKey(**key) for key in keys])  # type: ignore[arg-type]
        given: Fields = {"round": entropy("round", 32), "keys": keys, "participants": encode(message)}
        digest = transcript.participants_digest(given["round"], message)
        what = "Three silos; of keys and signatures only the lengths are real."
        yield case(suite.profile, what, "3.2.1", **given, expected=digest)


def coin_commitment() -> Cases:
    for silo in SILOS[:2]:
        given: Fields = {"round": entropy("round", 32), "silo": silo, "coin": entropy(f"coin {silo}", 32)}
        yield case(silo, f"The coin of {silo}.", "3.7.1", **given, expected=transcript.coin_commitment(*given.values()))


def joint_coin() -> Cases:
    round_, coins = entropy("round", 32), [(silo, entropy(f"coin {silo}", 32)) for silo in SILOS[:3]]
    commitments = {silo: transcript.coin_commitment(round_, silo, coin) for silo, coin in coins}
    given: Fields = {"round": round_, "participants": CONTEXT, "commitments": commitments}

    def listed(pairs: Sequence[tuple[str, bytes]]) -> list[Fields]:
        return [{"silo": silo, "coin": coin} for silo, coin in pairs]

    message = round_pb2.Coins(coins=[round_pb2.SiloCoin(silo=silo, coin=coin) for silo, coin in coins])
    joint = transcript.joint_coin(CONTEXT, message)
    yield case("three", "Three coins, each as committed to.", "3.7.2", **given, coins=listed(coins), expected=joint)
    (alder, first), (birch, second), last = coins
    for name, pairs, clause, error, what in (
        ("altered", [(alder, altered(first, 0)), *coins[1:]], "5.8.2", "bad_audit", "A bit of one coin is another."),
        ("exchanged", [(alder, second), (birch, first), last], "5.8.2", "bad_audit", "Two silos have each other's."),
        ("missing", coins[:2], "5.8.3", "malformed_message", "A silo that signed the opening gave no coin."),
        ("twice", [*coins, last], "5.8.3", "malformed_message", "A silo gave two coins."),
        ("order", [coins[1], coins[0], last], "5.8.3", "malformed_message", "The silos do not ascend."),
    ):
        yield case(name, what, clause, **given, coins=listed(pairs), error=error)


def auditors() -> Cases:
    for signers, count, auditors in ((2, 12, 2), (3, 40, 2), (7, 60, 2), (200, 60, 2), (7, 60, 5), (200, 30, 67)):
        coin = entropy(f"joint coin {signers}", 32)
        given: Fields = {"joint_coin": coin, "chunks": count, "signers": signers, "auditors": auditors}
        name = f"{signers}-signers" + (f"-{auditors}-auditors" if auditors > 2 else "")
        what = f"{count} chunks among {signers} silos, {auditors} for each."
        yield case(name, what, "3.7.5", **given, expected=transcript.auditors(*given.values()).tolist())
