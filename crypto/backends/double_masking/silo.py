"""The silo's side of `double_masking` (docs/protocol.md, section 5)."""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from crypto.backends.double_masking.phases import TABLE
from crypto.backends.double_masking.transcript import (
    ACCEPTANCE,
    SEED_BYTES,
    SURVIVORS,
    UPLOAD_ROOT,
    check_ascending,
    others,
    pair_seed,
    pairwise_sign,
    participants_digest,
    seal_bundle,
    seal_info,
)
from crypto.errors import BadUpload, MalformedMessage, ProtocolError, TooFewSurvivors
from crypto.names import Phase
from crypto.primitives import shamir
from crypto.primitives.mask_stream import add_mask
from crypto.primitives.sealed import SealingKey, check_public, seal
from crypto.primitives.signing import SigningKey, verify
from crypto.secagg.session import Entropy, Round, SiloSession, Words
from crypto.secagg.wire import encode
from sparsilo.v1 import round_pb2

AGGREGATOR = "aggregator"


class DoubleMaskingSilo(SiloSession):
    """Fresh keys and seeds for one round; nothing here outlives it."""

    def __init__(self, round_: Round, silo: str, signing_key: SigningKey, entropy: Entropy) -> None:
        super().__init__(TABLE, round_, silo)
        self._plan = round_.plan
        self._signing_key = signing_key
        self._entropy = entropy
        self._sealing_key = SealingKey.generate()
        self._self_seed = entropy(SEED_BYTES)
        self._bundle_key = entropy(SEED_BYTES)
        self._contributions: dict[str, bytes] = {}  # mine, by peer
        self._peer_keys: dict[str, bytes] = {}  # participants' sealing keys, mine among them
        self._participants = b""
        self._pair_seeds: dict[str, bytes] = {}
        self._shares: dict[str, tuple[bytes, bytes]] = {}  # by owner: of its self seed, of its bundle key
        self._own_shares: dict[str, tuple[bytes, bytes]] = {}  # by holder
        self._survivors = round_pb2.Survivors()

    def mask_chunk(self, index: int, words: Words) -> None:
        """Add the self mask and one pairwise mask a peer, in place, mod 2^64 (section 6)."""
        if self.phase is not Phase.UPLOAD:
            raise RuntimeError(
                "words are masked in UPLOAD only: a second plaintext under one mask would reveal the difference"
            )
        add_mask(words, self._self_seed, self._participants, index, 1)
        for peer in others(tuple(self._shares), self.silo):
            add_mask(
                words, self._pair_seeds[peer], self._participants, index, pairwise_sign(self._plan, self.silo, peer)
            )

    def _outgoing(self) -> Mapping[Phase, Callable[[], Message]]:
        return {
            Phase.PLAN: self._accept,
            Phase.KEYS: self._contribute,
            Phase.SHARES: self._share,
            Phase.UPLOAD: self._sign_root,
            Phase.CONSISTENCY: self._sign_survivors,
            Phase.UNMASK: self._reveal,
        }

    def _incoming(self) -> Mapping[Phase, Callable[[Any], None]]:
        return {
            Phase.PLAN: self._take_participants,
            Phase.KEYS: self._take_contributions,
            Phase.SHARES: self._take_shares,
            Phase.UPLOAD: self._take_survivors,
            Phase.CONSISTENCY: self._take_signatures,
            Phase.UNMASK: lambda _: None,
        }

    # PLAN

    def _accept(self) -> round_pb2.Acceptance:
        key = self._sealing_key.public_bytes
        return round_pb2.Acceptance(sealing_key=key, signature=self._sign(ACCEPTANCE + self.round.digest, key))

    def _take_participants(self, message: round_pb2.Participants) -> None:
        names = [key.silo for key in message.keys]
        check_ascending(names, self._plan.silos, "participants", AGGREGATOR)
        for key in message.keys:
            self._verify(key.silo, key.signature, ACCEPTANCE + self.round.digest, key.sealing_key)
            check_public(key.sealing_key, party=key.silo)
        self._peer_keys = {key.silo: key.sealing_key for key in message.keys}
        if self._peer_keys.get(self.silo) != self._sealing_key.public_bytes:
            raise ProtocolError("the participant set lacks this silo's own key", party=AGGREGATOR)
        self._need(len(names), self._plan.message.least_survivors)
        self._participants = participants_digest(self.round.digest, message)

    # KEYS

    def _contribute(self) -> round_pb2.PairSeeds:
        peers = tuple(others(tuple(self._peer_keys), self.silo))
        self._contributions = {peer: self._entropy(SEED_BYTES) for peer in peers}
        return round_pb2.PairSeeds(
            sealed=[self._seal(b"contribution", peer, self._contributions[peer]) for peer in peers]
        )

    def _take_contributions(self, message: round_pb2.PairSeedDelivery) -> None:
        for peer, theirs in self._open_all(b"contribution", message.sealed, tuple(self._peer_keys), SEED_BYTES).items():
            contributions = {self.silo: self._contributions[peer], peer: theirs}
            self._pair_seeds[peer] = pair_seed(self._participants, self._plan, self.silo, peer, contributions)

    # SHARES

    def _share(self) -> round_pb2.Shares:
        holders = sorted([self.silo, *self._pair_seeds])
        points, threshold = [self._plan.point(silo) for silo in holders], self._plan.message.threshold
        of_seed = shamir.split(self._self_seed, threshold, points, self._entropy)
        of_key = shamir.split(self._bundle_key, threshold, points, self._entropy)
        self._own_shares = {silo: (of_seed[p], of_key[p]) for silo, p in zip(holders, points, strict=True)}
        return round_pb2.Shares(
            sealed=[
                self._seal(b"shares", peer, b"".join(self._own_shares[peer])) for peer in others(holders, self.silo)
            ],
            bundle=seal_bundle(self._bundle_key, self._participants, self.silo, self._pair_seeds),
        )

    def _take_shares(self, message: round_pb2.ShareDelivery) -> None:
        opened = self._open_all(b"shares", message.sealed, tuple(self._pair_seeds), 2 * shamir.SHARE_BYTES)
        self._shares = {peer: (both[: shamir.SHARE_BYTES], both[shamir.SHARE_BYTES :]) for peer, both in opened.items()}
        self._shares[self.silo] = self._own_shares[self.silo]

    # UPLOAD

    def _sign_root(self) -> round_pb2.UploadRoot:
        root = self._own_root()
        return round_pb2.UploadRoot(root=root, signature=self._sign(UPLOAD_ROOT + self._participants, root))

    def _take_survivors(self, message: round_pb2.Survivors) -> None:
        names = [signed.silo for signed in message.roots]
        check_ascending(names, tuple(self._shares), "survivors", AGGREGATOR)
        for signed in message.roots:
            self._verify(signed.silo, signed.signature, UPLOAD_ROOT + self._participants, signed.root)
        if not any(signed.silo == self.silo and signed.root == self._root for signed in message.roots):
            raise BadUpload("the survivor set lacks this silo's own upload", party=AGGREGATOR)
        self._need(len(names), self._plan.message.least_survivors)
        self._survivors = message

    # CONSISTENCY

    def _sign_survivors(self) -> round_pb2.SurvivorsSignature:
        signature = self._sign(SURVIVORS + self._participants, encode(self._survivors))
        return round_pb2.SurvivorsSignature(signature=signature)

    def _take_signatures(self, message: round_pb2.SurvivorsSignatures) -> None:
        names = [signed.silo for signed in message.signatures]
        check_ascending(names, [root.silo for root in self._survivors.roots], "survivors' signatures", AGGREGATOR)
        for signed in message.signatures:
            self._verify(signed.silo, signed.signature, SURVIVORS + self._participants, encode(self._survivors))
        self._need(len(names), self._plan.message.threshold)

    # UNMASK

    def _reveal(self) -> round_pb2.RevealedShares:
        """For a survivor the self-seed share, for a dropped silo the bundle-key share, never both (section 5.6)."""
        survivors = {root.silo for root in self._survivors.roots}
        revealed = round_pb2.RevealedShares()
        for silo in sorted(self._shares):
            of_seed, of_key = self._shares[silo]
            if silo in survivors:
                revealed.self_seeds.add(silo=silo, share=of_seed)
            else:
                revealed.bundle_keys.add(silo=silo, share=of_key)
        return revealed

    def _sign(self, context: bytes, message: bytes) -> bytes:
        return self._signing_key.sign(context, message)

    def _verify(self, silo: str, signature: bytes, context: bytes, message: bytes) -> None:
        verify(self._plan.signing_key(silo), signature, context, message, party=silo)

    def _seal(self, purpose: bytes, peer: str, plaintext: bytes) -> round_pb2.Sealed:
        info = seal_info(purpose, self._participants, self.silo, peer)
        return round_pb2.Sealed(silo=peer, sealed=seal(self._peer_keys[peer], plaintext, info))

    def _open_all(self, purpose: bytes, sealed: Any, allowed: tuple[str, ...], length: int) -> dict[str, bytes]:
        """The sealed messages to this silo, opened, by sender; with this silo they must be least survivors or more."""
        names = [item.silo for item in sealed]
        check_ascending(names, list(others(allowed, self.silo)), purpose.decode(), AGGREGATOR)
        opened = {
            item.silo: self._sealing_key.open(
                item.sealed, seal_info(purpose, self._participants, item.silo, self.silo), party=item.silo
            )
            for item in sealed
        }
        for silo, plaintext in opened.items():
            if len(plaintext) != length:
                raise MalformedMessage(f"a sealed {purpose.decode()} has the wrong length", party=silo)
        self._need(len(opened) + 1, self._plan.message.least_survivors)
        return opened

    def _need(self, silos: int, fewest: int) -> None:
        if silos < fewest:
            raise TooFewSurvivors(f"phase {self.phase}: {silos} silos are left and this silo needs {fewest}")
