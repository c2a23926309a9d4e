"""What both roles compute from the round's messages: contexts, the bundle, and the sign of a pairwise mask.

Every context binds the round digest (and with it the plan), and from KEYS on also the exact set of signed sealing
keys, so that silos who were shown different participants cannot understand each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.errors import BadShare, MalformedMessage
from crypto.plan import Plan
from crypto.secagg.wire import encode
from sparsilo.v1 import round_pb2

SEED_BYTES: Final = 32

ACCEPTANCE: Final = b"acceptance"
UPLOAD_ROOT: Final = b"upload root"
SURVIVORS: Final = b"survivors"


def participants_digest(round_digest: bytes, participants: round_pb2.Participants) -> bytes:
    """32 bytes that stand for the round and its signed participant set."""
    return sha256(b"sparsilo/1 participants" + round_digest + encode(participants)).digest()


def seal_info(purpose: bytes, participants: bytes, sender: str, recipient: str) -> bytes:
    """The HPKE info of one sealed message."""
    return b"sparsilo/1 " + purpose + b"\0" + participants + sender.encode() + b"\0" + recipient.encode()


def pair_seed(participants: bytes, plan: Plan, one: str, other: str, contributions: Mapping[str, bytes]) -> bytes:
    """The 32-byte seed of a pair from both ends' random contributions, the same at both ends."""
    low, high = sorted((one, other), key=plan.point)
    info = seal_info(b"pair seed", participants, low, high)
    return HKDF(SHA256(), SEED_BYTES, salt=None, info=info).derive(contributions[low] + contributions[high])


def pairwise_sign(plan: Plan, silo: str, peer: str) -> Literal[1, -1]:
    """The sign with which `silo` adds the pairwise mask it shares with `peer`; the peer's is the opposite."""
    return 1 if plan.point(silo) < plan.point(peer) else -1


def seal_bundle(key: bytes, participants: bytes, silo: str, seeds: Mapping[str, bytes]) -> bytes:
    """Every pair seed of a silo, ascending by peer, under its bundle key.

    AES-256-GCM with an all-zero nonce, because a bundle key encrypts once.
    """
    plaintext = b"".join(seeds[peer] for peer in sorted(seeds))
    return AESGCM(key).encrypt(bytes(12), plaintext, seal_info(b"bundle", participants, silo, ""))


def open_bundle(key: bytes, participants: bytes, silo: str, peers: Sequence[str], bundle: bytes) -> dict[str, bytes]:
    """The pair seeds of a dropped silo, by peer. Raises BadShare where the recovered key does not open its bundle."""
    try:
        plaintext = AESGCM(key).decrypt(bytes(12), bundle, seal_info(b"bundle", participants, silo, ""))
    except InvalidTag:
        raise BadShare("the shares of its bundle key do not open its bundle", party=silo) from None
    if len(plaintext) != SEED_BYTES * len(peers):
        raise MalformedMessage("its bundle has the wrong length", party=silo)
    return {peer: plaintext[SEED_BYTES * at : SEED_BYTES * (at + 1)] for at, peer in enumerate(peers)}


def bundle_bytes(peers: int) -> int:
    """Length of a sealed bundle for that many peers."""
    return peers * SEED_BYTES + 16


def check_ascending(names: Sequence[str], allowed: Sequence[str], what: str, party: str) -> None:
    """Names must be known, ascending and each once; else MalformedMessage."""
    if any(a >= b for a, b in pairwise(names)) or not set(names) <= set(allowed):
        raise MalformedMessage(f"{what} must name known silos, ascending, each once", party=party)


def check_names(names: Sequence[str], wanted: Sequence[str], what: str, party: str) -> None:
    """Names must be exactly the wanted ones, in order; else MalformedMessage."""
    if tuple(names) != tuple(wanted):
        raise MalformedMessage(f"{what} must name exactly {', '.join(wanted) or 'nobody'}, in this order", party=party)


def others(silos: Sequence[str], silo: str) -> Iterator[str]:
    """Everyone but one."""
    return (peer for peer in silos if peer != silo)
