"""The aggregator's side of `double_masking` (docs/protocol.md, section 5).

It routes, counts who is left, and at the end can remove masks from the sum over the survivors, and from nothing else.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message

from crypto.backends.double_masking.phases import TABLE
from crypto.backends.double_masking.replay import check_covered
from crypto.backends.double_masking.transcript import (
    ACCEPTANCE,
    OPENING,
    SURVIVORS,
    UPLOAD_ROOT,
    VERDICT,
    Auditors,
    auditors,
    bundle_bytes,
    check_names,
    check_signature,
    coin_commitment,
    joint_coin,
    open_bundle,
    opening_masks,
    others,
    participants_digest,
)
from crypto.encoding.wire import encode
from crypto.encoding.words import Words
from crypto.errors import BadAudit, BadShare, MalformedMessage
from crypto.names import Phase
from crypto.primitives import shamir
from crypto.primitives.mask_stream import add_masks
from crypto.primitives.sealed import check_public
from crypto.secagg.round import Round
from crypto.secagg.session import AggregatorSession
from sparsilo.v1 import round_pb2

Answers = dict[str, Message]


class DoubleMaskingAggregator(AggregatorSession):
    """Holds no secret until t silos reveal shares, and then only what removes masks from the sum."""

    def __init__(self, round_: Round) -> None:
        super().__init__(TABLE, round_)
        self._plan = round_.plan
        self._participants = b""
        self._bundles: dict[str, bytes] = {}
        self._contributors: tuple[str, ...] = ()  # sent pair seeds: a bundle names them all
        self._sharers: tuple[str, ...] = ()  # and shares
        self._signers: tuple[str, ...] = ()  # and the opening
        self._joint_coin = b""
        self._survivors = round_pb2.Survivors()
        self._commitments: dict[str, bytes] = {}  # to coins
        self._opening: round_pb2.Opening | None = None
        self._auditors: Auditors = np.empty((0, 2), np.uint8)

    def unmask_chunk(self, index: int, words: Words) -> None:
        """Subtract the survivors' self masks, and the pairwise masks whose other end was dropped (section 6)."""
        add_masks(words, opening_masks(self._plan, self._recovered), self._participants, index)

    def recover(self) -> None:
        """Combine the revealed shares into the seeds that open the sum (5.6.4)."""
        super().recover()
        self._opening = self._combined({silo: body for silo, (_, body) in self._messages.items()})

    def may_audit(self, silo: str, index: int) -> bool:
        """Whether the joint coin gave the chunk to that silo (5.9.1)."""
        if self.phase is not Phase.AUDIT or silo not in self._signers or index >= len(self._auditors):
            return False
        return self._signers.index(silo) in self._auditors[index]

    @property
    def _recovered(self) -> round_pb2.Opening:
        if self._opening is None:
            raise RuntimeError("the driver opens the sum before it recovered the masks")
        return self._opening

    def _checks(self) -> Mapping[Phase, Callable[[str, Any], None]]:
        return {
            Phase.PLAN: self._check_acceptance,
            Phase.KEYS: lambda silo, body: self._check_sealed(silo, body.sealed),
            Phase.SHARES: self._check_shares,
            Phase.UPLOAD: self._check_upload,
            Phase.CONSISTENCY: lambda silo, body: self._check_signature(silo, body, SURVIVORS, encode(self._survivors)),
            Phase.UNMASK: self._check_revealed,
            Phase.OPENING: lambda silo, body: self._check_signature(silo, body, OPENING, encode(self._recovered)),
            Phase.COIN: self._check_coin,
            Phase.AUDIT: lambda silo, body: self._check_signature(silo, body, VERDICT, self._judged),
        }

    def _closing(self) -> Mapping[Phase, Callable[[dict[str, Any]], Answers]]:
        return {
            Phase.PLAN: self._fix_participants,
            Phase.KEYS: lambda bodies: _route(bodies, round_pb2.PairSeedDelivery),
            Phase.SHARES: self._route_shares,
            Phase.UPLOAD: self._fix_survivors,
            Phase.CONSISTENCY: lambda bodies: _forward(bodies, round_pb2.SurvivorsSignatures),
            Phase.UNMASK: self._open,
            Phase.OPENING: self._fix_signers,
            Phase.COIN: self._toss,
            Phase.AUDIT: self._conclude,
        }

    def _check_acceptance(self, silo: str, body: round_pb2.Acceptance) -> None:
        check_public(self._plan.suite, body.sealing_key, party=silo)  # a malformed key would stop every other silo
        signed = body.sealing_key + body.coin_commitment
        check_signature(self._plan, silo, body.signature, ACCEPTANCE + self.round.digest, signed)

    def _fix_participants(self, bodies: dict[str, round_pb2.Acceptance]) -> Answers:
        message = round_pb2.Participants(
            keys=[
                round_pb2.SignedKey(
                    silo=silo,
                    sealing_key=body.sealing_key,
                    coin_commitment=body.coin_commitment,
                    signature=body.signature,
                )
                for silo, body in bodies.items()
            ]
        )
        self._participants = participants_digest(self.round.digest, message)
        self._commitments = {silo: body.coin_commitment for silo, body in bodies.items()}
        return dict.fromkeys(bodies, message)

    def _check_sealed(self, silo: str, sealed: Any) -> None:
        check_names([item.silo for item in sealed], list(others(self.expected, silo)), "sealed messages", silo)

    def _check_shares(self, silo: str, body: round_pb2.Shares) -> None:
        self._check_sealed(silo, body.sealed)
        if len(body.bundle) != bundle_bytes(len(self.expected) - 1):
            raise MalformedMessage("its bundle has the wrong length", party=silo)

    def _route_shares(self, bodies: dict[str, round_pb2.Shares]) -> Answers:
        self._bundles = {silo: body.bundle for silo, body in bodies.items()}
        self._contributors, self._sharers = self.expected, tuple(bodies)
        return _route(bodies, round_pb2.ShareDelivery)

    def _check_upload(self, silo: str, body: round_pb2.UploadRoot) -> None:
        self._check_root(silo, body.root)
        check_signature(self._plan, silo, body.signature, UPLOAD_ROOT + self._participants, body.root)

    def _fix_survivors(self, bodies: dict[str, round_pb2.UploadRoot]) -> Answers:
        self.survivors = tuple(bodies)
        self._survivors = round_pb2.Survivors(
            roots=[
                round_pb2.SignedRoot(silo=silo, root=body.root, signature=body.signature)
                for silo, body in bodies.items()
            ]
        )
        return dict.fromkeys(bodies, self._survivors)

    def _check_signature(self, silo: str, body: Any, context: bytes, message: bytes) -> None:
        check_signature(self._plan, silo, body.signature, context + self._participants, message)

    def _check_revealed(self, silo: str, body: round_pb2.RevealedShares) -> None:
        lost = [sharer for sharer in self._sharers if sharer not in self.survivors]
        check_names([share.silo for share in body.self_seeds], self.survivors, "self-seed shares", silo)
        check_names([share.silo for share in body.bundle_keys], lost, "bundle-key shares", silo)
        if any(len(share.share) != shamir.SHARE_BYTES for share in (*body.self_seeds, *body.bundle_keys)):
            raise BadShare(f"a share must be {shamir.SHARE_BYTES} bytes", party=silo)

    def _combined(self, bodies: Mapping[str, round_pb2.RevealedShares]) -> round_pb2.Opening:
        threshold = self.round.threshold

        def combine(shares: Callable[[round_pb2.RevealedShares], Any]) -> dict[str, bytes]:
            by_owner: dict[str, dict[int, bytes]] = {}
            for holder, body in bodies.items():
                for share in shares(body):
                    by_owner.setdefault(share.silo, {})[self._plan.point(holder)] = share.share
            return {owner: shamir.combine(held, threshold) for owner, held in by_owner.items()}

        opening = round_pb2.Opening()
        for silo, seed in combine(lambda body: body.self_seeds).items():
            opening.self_seeds.add(silo=silo, seed=seed)
        for dropped, key in combine(lambda body: body.bundle_keys).items():
            peers = list(others(self._contributors, dropped))
            seeds = open_bundle(key, self._participants, dropped, peers, self._bundles[dropped])
            for survivor in self.survivors:
                opening.pair_seeds.add(dropped=dropped, survivor=survivor, seed=seeds[survivor])
        return opening

    def _open(self, bodies: dict[str, round_pb2.RevealedShares]) -> Answers:
        self._recovered.sum_root = self.sum_root
        return dict.fromkeys(bodies, self._recovered)

    def _fix_signers(self, bodies: dict[str, round_pb2.OpeningSignature]) -> Answers:
        self._signers = tuple(bodies)
        return _forward(bodies, round_pb2.OpeningSignatures)

    def _check_coin(self, silo: str, body: round_pb2.Coin) -> None:
        if coin_commitment(self.round.digest, silo, body.coin) != self._commitments[silo]:
            raise BadAudit("its coin is not the one it committed to", party=silo)

    def _toss(self, bodies: dict[str, round_pb2.Coin]) -> Answers:
        message = round_pb2.Coins(
            coins=[round_pb2.SiloCoin(silo=silo, coin=body.coin) for silo, body in bodies.items()]
        )
        self._joint_coin = joint_coin(self._participants, message)
        self._auditors = auditors(self._joint_coin, len(self.round.layout.chunks), len(self._signers))
        return dict.fromkeys(bodies, message)

    @property
    def _judged(self) -> bytes:
        return encode(self._recovered) + self._joint_coin

    def _conclude(self, bodies: dict[str, round_pb2.Verdict]) -> Answers:
        judged_by = [self._signers.index(silo) for silo in bodies]
        check_covered(self._auditors, judged_by, self._plan.message.colluders)
        return _forward(bodies, round_pb2.Verdicts)

    def _fewest(self) -> int:
        # A missing coin would let whoever withholds it choose between two assignments (5.8.3).
        return len(self.expected) if self.phase is Phase.COIN else super()._fewest()


def _forward(bodies: dict[str, Any], signatures: Callable[..., Message]) -> Answers:
    """To everybody, what everybody signed."""
    message = signatures(
        signatures=[round_pb2.SiloSignature(silo=silo, signature=body.signature) for silo, body in bodies.items()]
    )
    return dict.fromkeys(bodies, message)


def _route(bodies: dict[str, Any], delivery: Callable[..., Message]) -> Answers:
    """Each silo's delivery: what every other silo sealed for it, ascending by sender."""
    sealed = {sender: {item.silo: item.sealed for item in body.sealed} for sender, body in bodies.items()}
    return {
        silo: delivery(
            sealed=[round_pb2.Sealed(silo=peer, sealed=sealed[peer][silo]) for peer in others(tuple(bodies), silo)]
        )
        for silo in bodies
    }
