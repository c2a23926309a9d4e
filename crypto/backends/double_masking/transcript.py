"""What both roles, and whoever verifies a round later, compute from its messages and hold them to: contexts, names,
signatures, the bundle, and the sign of a pairwise mask.

Every context binds the round digest (and with it the plan), and from KEYS on also the exact set of signed sealing
keys, so that silos who were shown different participants cannot understand each other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from crypto.encoding.wire import encode
from crypto.errors import BadAudit, BadShare, MalformedMessage, TooFewSurvivors
from crypto.names import AGGREGATOR, Phase
from crypto.plan import Plan
from crypto.primitives.sealed import check_public
from crypto.primitives.signing import verify
from crypto.secagg.round import Round
from sparsilo.v1 import round_pb2

SEED_BYTES: Final = 32

Auditors = NDArray[np.uint8]
"""Shape (chunks, auditors a chunk): each chunk's auditors, as places among the silos that signed the opening."""

Masks = list[tuple[bytes, Literal[1, -1]]]
"""Seeds of masks, each with the sign with which its keystream is added."""

Signatures = round_pb2.SurvivorsSignatures | round_pb2.OpeningSignatures | round_pb2.Verdicts

# What a signature is for; the participants digest (in ACCEPTANCE the round digest) follows in its context.
ACCEPTANCE: Final = b"acceptance"
UPLOAD_ROOT: Final = b"upload root"
SURVIVORS: Final = b"survivors"
OPENING: Final = b"opening"
VERDICT: Final = b"verdict"


def participants_digest(round_digest: bytes, participants: round_pb2.Participants) -> bytes:
    """Return 32 bytes that stand for the round and its signed participant set."""
    return sha256(b"sparsilo/1 participants" + round_digest + encode(participants)).digest()


def seal_info(purpose: bytes, participants: bytes, sender: str, recipient: str) -> bytes:
    """Return the HPKE info of one sealed message."""
    return b"sparsilo/1 " + purpose + b"\0" + participants + sender.encode() + b"\0" + recipient.encode()


def pair_seed(participants: bytes, plan: Plan, one: str, other: str, contributions: Mapping[str, bytes]) -> bytes:
    """Return the 32-byte seed of a pair from both ends' random contributions, the same at both ends."""
    low, high = sorted((one, other), key=plan.point)
    info = seal_info(b"pair seed", participants, low, high)
    return HKDF(SHA256(), SEED_BYTES, salt=None, info=info).derive(contributions[low] + contributions[high])


def pairwise_sign(plan: Plan, silo: str, peer: str) -> Literal[1, -1]:
    """Return the sign with which `silo` adds the pairwise mask it shares with `peer`; the peer's is the opposite."""
    return 1 if plan.point(silo) < plan.point(peer) else -1


def seal_bundle(key: bytes, participants: bytes, silo: str, seeds: Mapping[str, bytes]) -> bytes:
    """Return every pair seed of a silo, ascending by peer, encrypted under its bundle key.

    AES-256-GCM with an all-zero nonce, because a bundle key encrypts once.
    """
    plaintext = b"".join(seeds[peer] for peer in sorted(seeds))
    return AESGCM(key).encrypt(bytes(12), plaintext, seal_info(b"bundle", participants, silo, ""))


def open_bundle(key: bytes, participants: bytes, silo: str, peers: Sequence[str], bundle: bytes) -> dict[str, bytes]:
    """Return the pair seeds of a dropped silo, by peer.

    Raises BadShare where the recovered key does not open its bundle, MalformedMessage for a wrong length.
    """
    try:
        plaintext = AESGCM(key).decrypt(bytes(12), bundle, seal_info(b"bundle", participants, silo, ""))
    except InvalidTag:
        # Whose share is wrong nobody can tell, and the bundle's owner may be the only honest one.
        raise BadShare(f"the shares of the bundle key of {silo} do not open its bundle") from None
    if len(plaintext) != SEED_BYTES * len(peers):
        raise MalformedMessage("its bundle has the wrong length", party=silo)
    return {peer: plaintext[SEED_BYTES * at : SEED_BYTES * (at + 1)] for at, peer in enumerate(peers)}


def bundle_bytes(peers: int) -> int:
    """Return the length of a sealed bundle for that many peers."""
    return peers * SEED_BYTES + 16


def coin_commitment(round_digest: bytes, silo: str, coin: bytes) -> bytes:
    """Return 32 bytes that fix a silo's coin in PLAN without showing it."""
    return sha256(b"sparsilo/1 coin" + round_digest + silo.encode() + b"\0" + coin).digest()


def check_coins(coins: round_pb2.Coins, round_digest: bytes, commitments: Mapping[str, bytes], party: str) -> None:
    """Check that the coins are of exactly these silos, in order, each as committed to.

    Raises BadAudit or MalformedMessage.
    """
    check_names([coin.silo for coin in coins.coins], tuple(commitments), "coins", party)
    for coin in coins.coins:
        if coin_commitment(round_digest, coin.silo, coin.coin) != commitments[coin.silo]:
            raise BadAudit("its coin is not the one it committed to", party=coin.silo)


def joint_coin(participants: bytes, coins: round_pb2.Coins) -> bytes:
    """Return 32 bytes that nobody could foresee as long as one silo's coin was random and hidden."""
    return sha256(b"sparsilo/1 joint coin" + participants + encode(coins)).digest()


def auditors_a_chunk(plan: Plan) -> int:
    """Return how many silos recompute each chunk: one more than may collude, and two at least (3.7.4)."""
    return max(2, plan.message.colluders + 1)


def auditors(coin: bytes, chunks: int, silos: int, of_a_chunk: int) -> Auditors:
    """Return the auditors of every chunk, `of_a_chunk` different places among `silos` silos (3.7.5)."""
    return np.array([_drawn(coin, chunk, silos, of_a_chunk) for chunk in range(chunks)], np.uint8)


def _drawn(coin: bytes, chunk: int, silos: int, of_a_chunk: int) -> list[int]:
    """Return the places that are drawn for one chunk, each among those that are left."""
    seed = b"sparsilo/1 auditors" + coin + chunk.to_bytes(8, "little")
    hashes = [seed, *(seed + more.to_bytes(8, "little") for more in range(1, -(-of_a_chunk // 4)))]
    numbers = b"".join(sha256(hashed).digest() for hashed in hashes)
    left = list(range(silos))
    return [
        left.pop(int.from_bytes(numbers[8 * draw : 8 * draw + 8], "little") % len(left)) for draw in range(of_a_chunk)
    ]


def opening_masks(plan: Plan, opening: round_pb2.Opening) -> Masks:
    """Return the masks that, added to the sum over the survivors, open it (docs/protocol.md, 6.7.1)."""
    self_masks: Masks = [(seed.seed, -1) for seed in opening.self_seeds]
    # The survivor added its end of a pairwise mask; adding the dropped silo's end, of opposite sign, cancels it.
    lost: Masks = [(pair.seed, pairwise_sign(plan, pair.dropped, pair.survivor)) for pair in opening.pair_seeds]
    return self_masks + lost


def check_participants(round_: Round, participants: round_pb2.Participants) -> None:
    """Check for known silos, ascending, each with a key that can be sealed to and a signature over key and commitment.

    Raises MalformedMessage, BadSignature, or BadSeal naming the silo.
    """
    plan = round_.plan
    check_ascending([key.silo for key in participants.keys], round_.silos, "participants", AGGREGATOR)
    for key in participants.keys:
        signed = key.sealing_key + key.coin_commitment
        check_signature(plan, key.silo, key.signature, ACCEPTANCE + round_.digest, signed)
        check_public(plan.suite, key.sealing_key, party=key.silo)


def check_survivors(plan: Plan, participants: bytes, survivors: round_pb2.Survivors, allowed: Sequence[str]) -> None:
    """Check for silos of `allowed`, ascending, each with a signature over its root.

    Raises MalformedMessage or BadSignature.
    """
    check_ascending([signed.silo for signed in survivors.roots], allowed, "survivors", AGGREGATOR)
    for signed in survivors.roots:
        check_signature(plan, signed.silo, signed.signature, UPLOAD_ROOT + participants, signed.root)


def check_signatures(
    plan: Plan, participants: bytes, signatures: Signatures, allowed: Sequence[str], context: bytes, message: bytes
) -> tuple[str, ...]:
    """Return who signed one message: silos of `allowed`, ascending. Raises MalformedMessage or BadSignature."""
    names = tuple(signed.silo for signed in signatures.signatures)
    check_ascending(names, allowed, f"{context.decode()} signatures", AGGREGATOR)
    for signed in signatures.signatures:
        check_signature(plan, signed.silo, signed.signature, context + participants, message)
    return names


def check_signature(plan: Plan, silo: str, signature: bytes, context: bytes, message: bytes) -> None:
    """Check a silo's signature under the key that the roster has for it. Raises BadSignature."""
    verify(plan.suite, plan.signing_key(silo), signature, context, message, party=silo)


def check_enough(silos: int, fewest: int, phase: Phase) -> None:
    """Check that as many silos are left as are needed. Raises TooFewSurvivors naming the phase."""
    if silos < fewest:
        raise TooFewSurvivors(f"phase {phase}: {silos} silos are left and {fewest} are needed")


def check_ascending(names: Sequence[str], allowed: Sequence[str], what: str, party: str) -> None:
    """Check that names are known, ascending and each once. Raises MalformedMessage."""
    if any(a >= b for a, b in pairwise(names)) or not set(names) <= set(allowed):
        raise MalformedMessage(f"{what} must name known silos, ascending, each once", party=party)


def check_names(names: Sequence[str], wanted: Sequence[str], what: str, party: str) -> None:
    """Check that names are exactly the wanted ones, in order. Raises MalformedMessage."""
    if tuple(names) != tuple(wanted):
        raise MalformedMessage(f"{what} must name exactly {', '.join(wanted) or 'nobody'}, in this order", party=party)


def others(silos: Iterable[str], silo: str) -> Iterator[str]:
    """Yield every silo but one, in order."""
    return (peer for peer in silos if peer != silo)
