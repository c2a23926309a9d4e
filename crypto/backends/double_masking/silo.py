"""The silo's side of `double_masking` (docs/protocol.md, section 5)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from google.protobuf.message import Message

from crypto.backends.double_masking.phases import TABLE
from crypto.backends.double_masking.replay import Replay, check_covered, check_opening
from crypto.backends.double_masking.transcript import (
    ACCEPTANCE,
    OPENING,
    SEED_BYTES,
    SURVIVORS,
    UPLOAD_ROOT,
    VERDICT,
    Auditors,
    Signatures,
    auditors,
    check_ascending,
    check_coins,
    check_enough,
    check_participants,
    check_signatures,
    check_survivors,
    coin_commitment,
    joint_coin,
    others,
    pair_seed,
    pairwise_sign,
    participants_digest,
    seal_bundle,
    seal_info,
)
from crypto.encoding.wire import encode
from crypto.encoding.words import Words
from crypto.errors import BadAudit, BadUpload, MalformedMessage, ProtocolError, SparsiloError
from crypto.names import AGGREGATOR, Phase
from crypto.primitives import shamir
from crypto.primitives.mask_stream import add_masks
from crypto.primitives.sealed import SealingKey, seal
from crypto.primitives.signing import SigningKey
from crypto.secagg.round import Round
from crypto.secagg.session import Entropy, SiloSession
from sparsilo.v1 import round_pb2, words_pb2


class DoubleMaskingSilo(SiloSession):
    """Fresh keys and seeds for one round; nothing here outlives it."""

    def __init__(self, round_: Round, silo: str, signing_key: SigningKey, entropy: Entropy) -> None:
        super().__init__(TABLE, round_, silo)
        self._plan = round_.plan
        self._signing_key = signing_key
        self._entropy = entropy
        self._sealing_key = SealingKey.generate(self._plan.suite)
        self._self_seed = entropy(SEED_BYTES)
        self._bundle_key = entropy(SEED_BYTES)
        self._coin = entropy(SEED_BYTES)
        self._contributions: dict[str, bytes] = {}  # mine, by peer
        self._peers: dict[str, round_pb2.SignedKey] = {}  # participants, this silo among them
        self._participants = b""
        self._pair_seeds: dict[str, bytes] = {}
        self._shares: dict[str, tuple[bytes, bytes]] = {}  # by owner: of its self seed, of its bundle key
        self._own_shares: dict[str, tuple[bytes, bytes]] = {}  # by holder
        self._survivors = round_pb2.Survivors()
        self._opening = round_pb2.Opening()
        self._signers: tuple[str, ...] = ()  # of the opening
        self._joint_coin = b""
        self._audited: set[int] = set()

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, from CONSISTENCY on."""
        return tuple(signed.silo for signed in self._survivors.roots)

    @property
    def assigned(self) -> Sequence[int]:
        """The chunks that the joint coin gave to this silo, ascending."""
        chunks: list[int] = np.flatnonzero((self._auditors == self._signers.index(self.silo)).any(axis=1)).tolist()
        return chunks

    def audit(self, index: int, committed: Iterable[words_pb2.CommittedChunk]) -> None:
        """Recompute one chunk (5.9.2). Raises BadAudit, after which nothing more is said."""
        if self.phase is not Phase.AUDIT:
            raise RuntimeError("chunks are recomputed in AUDIT only")
        try:
            self._replay.chunk(index, committed)
        except SparsiloError:  # also a piece that is no message at all
            self.phase = Phase.ABORTED
            raise
        self._audited.add(index)

    def _mask(self, index: int, words: Words) -> None:
        """Add the self mask and one pairwise mask a peer, in place, mod 2^64 (section 6)."""
        add_masks(words, self._masks, self._participants, index)

    @cached_property
    def _masks(self) -> list[tuple[bytes, Any]]:
        peers = others(tuple(self._shares), self.silo)
        pairwise = [(self._pair_seeds[peer], pairwise_sign(self._plan, self.silo, peer)) for peer in peers]
        return [(self._self_seed, 1), *pairwise]

    @cached_property
    def _replay(self) -> Replay:
        return Replay(self.round, self._participants, self._survivors, self._opening)

    @cached_property
    def _auditors(self) -> Auditors:
        return auditors(self._joint_coin, len(self.round.layout.chunks), len(self._signers))

    def _outgoing(self) -> Mapping[Phase, Callable[[], Message]]:
        return {
            Phase.PLAN: self._accept,
            Phase.KEYS: self._contribute,
            Phase.SHARES: self._share,
            Phase.UPLOAD: self._sign_root,
            Phase.CONSISTENCY: self._sign_survivors,
            Phase.UNMASK: self._reveal,
            Phase.OPENING: self._sign_opening,
            Phase.COIN: lambda: round_pb2.Coin(coin=self._coin),
            Phase.AUDIT: self._judge,
        }

    def _incoming(self) -> Mapping[Phase, Callable[[Any], None]]:
        return {
            Phase.PLAN: self._take_participants,
            Phase.KEYS: self._take_contributions,
            Phase.SHARES: self._take_shares,
            Phase.UPLOAD: self._take_survivors,
            Phase.CONSISTENCY: self._take_signatures,
            Phase.UNMASK: self._take_opening,
            Phase.OPENING: self._take_opening_signatures,
            Phase.COIN: self._take_coins,
            Phase.AUDIT: self._take_verdicts,
        }

    # PLAN

    def _accept(self) -> round_pb2.Acceptance:
        key, commitment = self._sealing_key.public_bytes, coin_commitment(self.round.digest, self.silo, self._coin)
        return round_pb2.Acceptance(
            sealing_key=key,
            coin_commitment=commitment,
            signature=self._sign(ACCEPTANCE + self.round.digest, key + commitment),
        )

    def _take_participants(self, message: round_pb2.Participants) -> None:
        check_participants(self.round, message)
        self._peers = {key.silo: key for key in message.keys}
        if self.silo not in self._peers or self._peers[self.silo].sealing_key != self._sealing_key.public_bytes:
            raise ProtocolError("the participant set lacks this silo's own key", party=AGGREGATOR)
        self._need(len(self._peers), self.round.least_survivors)
        self._participants = participants_digest(self.round.digest, message)

    # KEYS

    def _contribute(self) -> round_pb2.PairSeeds:
        peers = tuple(others(tuple(self._peers), self.silo))
        self._contributions = {peer: self._entropy(SEED_BYTES) for peer in peers}
        return round_pb2.PairSeeds(
            sealed=[self._seal(b"contribution", peer, self._contributions[peer]) for peer in peers]
        )

    def _take_contributions(self, message: round_pb2.PairSeedDelivery) -> None:
        for peer, theirs in self._open_all(b"contribution", message.sealed, tuple(self._peers), SEED_BYTES).items():
            contributions = {self.silo: self._contributions[peer], peer: theirs}
            self._pair_seeds[peer] = pair_seed(self._participants, self._plan, self.silo, peer, contributions)

    # SHARES

    def _share(self) -> round_pb2.Shares:
        holders = sorted([self.silo, *self._pair_seeds])
        points, threshold = [self._plan.point(silo) for silo in holders], self.round.threshold
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
        return round_pb2.UploadRoot(root=self._root, signature=self._sign(UPLOAD_ROOT + self._participants, self._root))

    def _take_survivors(self, message: round_pb2.Survivors) -> None:
        check_survivors(self._plan, self._participants, message, tuple(self._shares))
        if not any(signed.silo == self.silo and signed.root == self._root for signed in message.roots):
            raise BadUpload("the survivor set lacks this silo's own upload", party=AGGREGATOR)
        self._need(len(message.roots), self.round.least_survivors)
        self._survivors = message

    # CONSISTENCY

    def _sign_survivors(self) -> round_pb2.SurvivorsSignature:
        signature = self._sign(SURVIVORS + self._participants, encode(self._survivors))
        return round_pb2.SurvivorsSignature(signature=signature)

    def _take_signatures(self, message: round_pb2.SurvivorsSignatures) -> None:
        self._take_signed(message, self.survivors, SURVIVORS, encode(self._survivors))

    # UNMASK

    def _reveal(self) -> round_pb2.RevealedShares:
        """For a survivor the self-seed share, for a dropped silo the bundle-key share, never both (5.6.2)."""
        revealed = round_pb2.RevealedShares()
        for silo in sorted(self._shares):
            of_seed, of_key = self._shares[silo]
            if silo in self.survivors:
                revealed.self_seeds.add(silo=silo, share=of_seed)
            else:
                revealed.bundle_keys.add(silo=silo, share=of_key)
        return revealed

    def _take_opening(self, message: round_pb2.Opening) -> None:
        lost = sorted({*self._shares} - {*self.survivors})
        check_opening(message, self.survivors, lost)
        own = [seed.seed == self._self_seed for seed in message.self_seeds if seed.silo == self.silo]
        mine = [pair for pair in message.pair_seeds if pair.survivor == self.silo]
        own += [pair.seed == self._pair_seeds[pair.dropped] for pair in mine]
        if not all(own):
            raise BadAudit("the opening has another seed than this silo's own", party=AGGREGATOR)
        self._opening = message

    # OPENING

    def _sign_opening(self) -> round_pb2.OpeningSignature:
        return round_pb2.OpeningSignature(signature=self._sign(OPENING + self._participants, encode(self._opening)))

    def _take_opening_signatures(self, message: round_pb2.OpeningSignatures) -> None:
        self._signers = self._take_signed(message, self.survivors, OPENING, encode(self._opening))
        if self.silo not in self._signers:
            raise BadAudit("the signatures of the opening lack this silo's own", party=AGGREGATOR)

    # COIN

    def _take_coins(self, message: round_pb2.Coins) -> None:
        commitments = {silo: self._peers[silo].coin_commitment for silo in self._signers}
        check_coins(message, self.round.digest, commitments, AGGREGATOR)
        self._joint_coin = joint_coin(self._participants, message)

    # AUDIT

    def _judge(self) -> round_pb2.Verdict:
        if self._audited != {*self.assigned}:
            raise RuntimeError("the driver closed AUDIT before it had every assigned chunk recomputed")
        return round_pb2.Verdict(signature=self._sign(VERDICT + self._participants, self._judged))

    @property
    def _judged(self) -> bytes:
        return encode(self._opening) + self._joint_coin

    def _take_verdicts(self, message: round_pb2.Verdicts) -> None:
        judges = self._take_signed(message, self._signers, VERDICT, self._judged)
        judged_by = [self._signers.index(silo) for silo in judges]
        check_covered(self._auditors, judged_by, self._plan.message.colluders)

    # What several phases need

    def _take_signed(
        self, signatures: Signatures, allowed: Sequence[str], context: bytes, message: bytes
    ) -> tuple[str, ...]:
        """The t or more silos that signed one message."""
        names = check_signatures(self._plan, self._participants, signatures, allowed, context, message)
        self._need(len(names), self.round.threshold)
        return names

    def _sign(self, context: bytes, message: bytes) -> bytes:
        return self._signing_key.sign(context, message)

    def _seal(self, purpose: bytes, peer: str, plaintext: bytes) -> round_pb2.Sealed:
        info, key = seal_info(purpose, self._participants, self.silo, peer), self._peers[peer].sealing_key
        return round_pb2.Sealed(silo=peer, sealed=seal(self._plan.suite, key, plaintext, info))

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
        self._need(len(opened) + 1, self.round.least_survivors)
        return opened

    def _need(self, silos: int, fewest: int) -> None:
        check_enough(silos, fewest, self.phase)
