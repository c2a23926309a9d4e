"""The aggregator's side of `double_masking` (docs/protocol.md, section 5).

It routes, counts who is left, and at the end can remove masks from the sum over the survivors, and from nothing else.
"""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from crypto.backends.double_masking.phases import TABLE
from crypto.backends.double_masking.transcript import (
    ACCEPTANCE,
    SURVIVORS,
    UPLOAD_ROOT,
    bundle_bytes,
    check_names,
    open_bundle,
    others,
    pairwise_sign,
    participants_digest,
)
from crypto.errors import BadShare, MalformedMessage
from crypto.names import Phase
from crypto.primitives import shamir
from crypto.primitives.mask_stream import add_mask
from crypto.primitives.sealed import check_public
from crypto.primitives.signing import verify
from crypto.secagg.session import AggregatorSession, Round, Words
from crypto.secagg.wire import encode
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
        self._survivors = round_pb2.Survivors()
        self._self_seeds: dict[str, bytes] = {}
        self._lost_pair_seeds: dict[tuple[str, str], bytes] = {}  # (dropped, survivor)

    def unmask_chunk(self, index: int, words: Words) -> None:
        """Subtract the survivors' self masks, and the pairwise masks whose other end was dropped (section 6)."""
        for seed in self._self_seeds.values():
            add_mask(words, seed, self._participants, index, -1)
        for (dropped, survivor), seed in self._lost_pair_seeds.items():
            # The survivor added its end; adding the dropped silo's end, of opposite sign, cancels it.
            add_mask(words, seed, self._participants, index, pairwise_sign(self._plan, dropped, survivor))

    def _checks(self) -> Mapping[Phase, Callable[[str, Any], None]]:
        return {
            Phase.PLAN: self._check_acceptance,
            Phase.KEYS: lambda silo, body: self._check_sealed(silo, body.sealed),
            Phase.SHARES: self._check_shares,
            Phase.UPLOAD: self._check_upload,
            Phase.CONSISTENCY: self._check_signature,
            Phase.UNMASK: self._check_revealed,
        }

    def _closing(self) -> Mapping[Phase, Callable[[dict[str, Any]], Answers]]:
        return {
            Phase.PLAN: self._fix_participants,
            Phase.KEYS: lambda bodies: _route(bodies, round_pb2.PairSeedDelivery),
            Phase.SHARES: self._route_shares,
            Phase.UPLOAD: self._fix_survivors,
            Phase.CONSISTENCY: self._forward_signatures,
            Phase.UNMASK: self._recover,
        }

    def _check_acceptance(self, silo: str, body: round_pb2.Acceptance) -> None:
        check_public(body.sealing_key, party=silo)  # a malformed key would stop every other silo
        self._verify(silo, body.signature, ACCEPTANCE + self.round.digest, body.sealing_key)

    def _fix_participants(self, bodies: dict[str, round_pb2.Acceptance]) -> Answers:
        message = round_pb2.Participants(
            keys=[
                round_pb2.SignedKey(silo=silo, sealing_key=body.sealing_key, signature=body.signature)
                for silo, body in bodies.items()
            ]
        )
        self._participants = participants_digest(self.round.digest, message)
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
        self._verify(silo, body.signature, UPLOAD_ROOT + self._participants, body.root)

    def _fix_survivors(self, bodies: dict[str, round_pb2.UploadRoot]) -> Answers:
        self.survivors = tuple(bodies)
        self._survivors = round_pb2.Survivors(
            roots=[
                round_pb2.SignedRoot(silo=silo, root=body.root, signature=body.signature)
                for silo, body in bodies.items()
            ]
        )
        return dict.fromkeys(bodies, self._survivors)

    def _check_signature(self, silo: str, body: round_pb2.SurvivorsSignature) -> None:
        self._verify(silo, body.signature, SURVIVORS + self._participants, encode(self._survivors))

    def _forward_signatures(self, bodies: dict[str, round_pb2.SurvivorsSignature]) -> Answers:
        message = round_pb2.SurvivorsSignatures(
            signatures=[round_pb2.SiloSignature(silo=silo, signature=body.signature) for silo, body in bodies.items()]
        )
        return dict.fromkeys(bodies, message)

    def _check_revealed(self, silo: str, body: round_pb2.RevealedShares) -> None:
        lost = [sharer for sharer in self._sharers if sharer not in self.survivors]
        check_names([share.silo for share in body.self_seeds], self.survivors, "self-seed shares", silo)
        check_names([share.silo for share in body.bundle_keys], lost, "bundle-key shares", silo)
        if any(len(share.share) != shamir.SHARE_BYTES for share in (*body.self_seeds, *body.bundle_keys)):
            raise BadShare(f"a share must be {shamir.SHARE_BYTES} bytes", party=silo)

    def _recover(self, bodies: dict[str, round_pb2.RevealedShares]) -> Answers:
        threshold = self._plan.message.threshold

        def combine(shares: Callable[[round_pb2.RevealedShares], Any]) -> dict[str, bytes]:
            by_owner: dict[str, dict[int, bytes]] = {}
            for holder, body in bodies.items():
                for share in shares(body):
                    by_owner.setdefault(share.silo, {})[self._plan.point(holder)] = share.share
            return {owner: shamir.combine(held, threshold) for owner, held in by_owner.items()}

        self._self_seeds = combine(lambda body: body.self_seeds)
        for dropped, key in combine(lambda body: body.bundle_keys).items():
            peers = list(others(self._contributors, dropped))
            seeds = open_bundle(key, self._participants, dropped, peers, self._bundles[dropped])
            self._lost_pair_seeds |= {(dropped, survivor): seeds[survivor] for survivor in self.survivors}
        return {silo: round_pb2.Unmasked() for silo in bodies}

    def _verify(self, silo: str, signature: bytes, context: bytes, message: bytes) -> None:
        verify(self._plan.signing_key(silo), signature, context, message, party=silo)


def _route(bodies: dict[str, Any], delivery: Callable[..., Message]) -> Answers:
    """Each silo's delivery: what every other silo sealed for it, ascending by sender."""
    sealed = {sender: {item.silo: item.sealed for item in body.sealed} for sender, body in bodies.items()}
    return {
        silo: delivery(
            sealed=[round_pb2.Sealed(silo=peer, sealed=sealed[peer][silo]) for peer in others(tuple(bodies), silo)]
        )
        for silo in bodies
    }
