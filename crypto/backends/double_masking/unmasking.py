"""UPLOAD, CONSISTENCY and UNMASK: masked words are uploaded, survivors are fixed and signed, and shares are revealed
that remove the masks from the sum over them (docs/protocol.md, 5.4 to 5.6). Classes are as in `key_agreement`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

from google.protobuf.message import Message

from crypto.backends.double_masking.audit import CollectingOpeningSignatures, Opened
from crypto.backends.double_masking.participants import Answers, Group, Participant, forward
from crypto.backends.double_masking.replay import check_opening
from crypto.backends.double_masking.transcript import (
    SURVIVORS,
    UPLOAD_ROOT,
    Masks,
    check_enough,
    check_names,
    check_survivors,
    open_bundle,
    opening_masks,
    others,
    pairwise_sign,
)
from crypto.encoding.wire import encode
from crypto.encoding.words import Words
from crypto.errors import BadAudit, BadShare, BadUpload
from crypto.names import AGGREGATOR, Phase
from crypto.primitives import shamir
from crypto.primitives.mask_stream import add_masks
from sparsilo.v1 import round_pb2

SharePair = tuple[bytes, bytes]
"""What one silo holds of another: a share of its self seed, and one of its bundle key."""


@dataclass(frozen=True)
class Masked:
    """UPLOAD: a silo masks its words for the silos whose shares it holds."""

    own: Participant
    coin: bytes
    self_seed: bytes
    pair_seeds: Mapping[str, bytes]
    """By peer."""
    shares: Mapping[str, SharePair]
    """By owner; this silo's own among them."""

    @cached_property
    def masks(self) -> Masks:
        """The self mask and one pairwise mask for each peer that shared (5.4.1)."""
        plan, silo = self.own.plan, self.own.silo
        pairwise = [(self.pair_seeds[peer], pairwise_sign(plan, silo, peer)) for peer in others(self.shares, silo)]
        return [(self.self_seed, 1), *pairwise]

    def mask(self, index: int, words: Words) -> None:
        """Add the masks to one chunk, in place, mod 2^64 (6.3, 6.4)."""
        add_masks(words, self.masks, self.own.digest, index)

    def uploaded(self, root: bytes) -> "Uploaded":
        """Return what is known once every chunk was uploaded, with the Merkle root over them."""
        return Uploaded(self, root)


@dataclass(frozen=True)
class Uploaded:
    """UPLOAD, when all words are with the aggregator: a silo commits to them."""

    masked: Masked
    root: bytes

    def message(self) -> round_pb2.UploadRoot:
        """Return the signed root (5.4.1)."""
        return round_pb2.UploadRoot(root=self.root, signature=self.masked.own.sign(UPLOAD_ROOT, self.root))

    def receive(self, message: round_pb2.Survivors) -> "Fixed":
        """Check the survivors, this silo among them (5.4.3). Raises ProtocolError."""
        own = self.masked.own
        check_survivors(own.plan, own.digest, message, tuple(self.masked.shares))
        if not any(signed.silo == own.silo and signed.root == self.root for signed in message.roots):
            raise BadUpload("the survivor set lacks this silo's own upload", party=AGGREGATOR)
        check_enough(len(message.roots), own.round.least_survivors, Phase.UPLOAD)
        return Fixed(self.masked, message)


@dataclass(frozen=True)
class Fixed:
    """CONSISTENCY: a silo signs the survivors that it was told, and no others."""

    masked: Masked
    roots: round_pb2.Survivors

    @cached_property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, ascending."""
        return tuple(signed.silo for signed in self.roots.roots)

    def message(self) -> round_pb2.SurvivorsSignature:
        """Return the signature over the survivors (5.5.1)."""
        return round_pb2.SurvivorsSignature(signature=self.masked.own.sign(SURVIVORS, encode(self.roots)))

    def receive(self, message: round_pb2.SurvivorsSignatures) -> "Revealed":
        """Check that t silos signed the same survivors (5.5.3). Raises ProtocolError."""
        signed = encode(self.roots)
        self.masked.own.check_signers(message, self.survivors, SURVIVORS, signed, Phase.CONSISTENCY)
        return Revealed(self)


@dataclass(frozen=True)
class Revealed:
    """UNMASK: enough silos signed the same survivors, so a silo reveals shares."""

    fixed: Fixed

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, ascending."""
        return self.fixed.survivors

    def message(self) -> round_pb2.RevealedShares:
        """Return for a survivor the self-seed share, for a dropped silo the bundle-key share, never both (5.6.2)."""
        revealed, shares = round_pb2.RevealedShares(), self.fixed.masked.shares
        for silo in sorted(shares):
            of_seed, of_key = shares[silo]
            if silo in self.survivors:
                revealed.self_seeds.add(silo=silo, share=of_seed)
            else:
                revealed.bundle_keys.add(silo=silo, share=of_key)
        return revealed

    def receive(self, message: round_pb2.Opening) -> Opened:
        """Check whose seeds the opening has, and that this silo's own are right (5.6.6). Raises BadAudit."""
        masked, silo = self.fixed.masked, self.fixed.masked.own.silo
        check_opening(message, self.survivors, sorted({*masked.shares} - {*self.survivors}))
        own = [seed.seed == masked.self_seed for seed in message.self_seeds if seed.silo == silo]
        mine = [pair for pair in message.pair_seeds if pair.survivor == silo]
        own += [pair.seed == masked.pair_seeds[pair.dropped] for pair in mine]
        if not all(own):
            raise BadAudit("the opening has another seed than this silo's own", party=AGGREGATOR)
        return Opened(masked.own, masked.coin, self.fixed.roots, message)


# The aggregator's side


@dataclass(frozen=True)
class CollectingUploads:
    """UPLOAD: the aggregator collects words and the signed roots over them."""

    group: Group
    contributors: tuple[str, ...]
    """The silos whose pair seeds a bundle holds."""
    bundles: Mapping[str, bytes]
    """By the silo that shared."""

    def check(self, silo: str, body: round_pb2.UploadRoot) -> None:
        """Check one silo's signature (5.4.2). Raises BadSignature."""
        self.group.check(silo, body.signature, UPLOAD_ROOT, body.root)

    def close(self, bodies: Mapping[str, round_pb2.UploadRoot]) -> tuple[Answers, "CollectingSurvivorsSignatures"]:
        """Tell everybody the survivors: those whose whole upload arrived."""
        roots = [
            round_pb2.SignedRoot(silo=silo, root=body.root, signature=body.signature) for silo, body in bodies.items()
        ]
        message = round_pb2.Survivors(roots=roots)
        return dict.fromkeys(bodies, message), CollectingSurvivorsSignatures(self, message)


@dataclass(frozen=True)
class CollectingSurvivorsSignatures:
    """CONSISTENCY: the aggregator collects signatures over the survivors."""

    uploads: CollectingUploads
    message: round_pb2.Survivors

    def check(self, silo: str, body: round_pb2.SurvivorsSignature) -> None:
        """Check one silo's signature (5.5.2). Raises BadSignature."""
        self.uploads.group.check(silo, body.signature, SURVIVORS, encode(self.message))

    def close(self, bodies: Mapping[str, round_pb2.SurvivorsSignature]) -> tuple[Answers, "CollectingShares"]:
        """Forward the signatures to everybody."""
        survivors = tuple(signed.silo for signed in self.message.roots)
        return forward(bodies, round_pb2.SurvivorsSignatures), CollectingShares(self.uploads, survivors)


@dataclass(frozen=True)
class CollectingShares:
    """UNMASK: the aggregator collects shares of the survivors' self seeds and of the dropped silos' bundle keys."""

    uploads: CollectingUploads
    survivors: tuple[str, ...]

    def check(self, silo: str, body: round_pb2.RevealedShares) -> None:
        """Check whose shares one silo reveals, and their length (5.6.3). Raises MalformedMessage or BadShare."""
        lost = [sharer for sharer in self.uploads.bundles if sharer not in self.survivors]
        check_names([share.silo for share in body.self_seeds], self.survivors, "self-seed shares", silo)
        check_names([share.silo for share in body.bundle_keys], lost, "bundle-key shares", silo)
        if any(len(share.share) != shamir.SHARE_BYTES for share in (*body.self_seeds, *body.bundle_keys)):
            raise BadShare(f"a share must be {shamir.SHARE_BYTES} bytes", party=silo)

    def recover(self, bodies: Mapping[str, round_pb2.RevealedShares]) -> "Recovered":
        """Combine shares into the seeds that open the sum (5.6.4). Raises BadShare or MalformedMessage."""
        uploads, opening = self.uploads, round_pb2.Opening()
        for silo, seed in self._combined(bodies, lambda body: body.self_seeds).items():
            opening.self_seeds.add(silo=silo, seed=seed)
        for dropped, key in self._combined(bodies, lambda body: body.bundle_keys).items():
            peers = list(others(uploads.contributors, dropped))
            seeds = open_bundle(key, uploads.group.digest, dropped, peers, uploads.bundles[dropped])
            for survivor in self.survivors:
                opening.pair_seeds.add(dropped=dropped, survivor=survivor, seed=seeds[survivor])
        return Recovered(self, opening)

    def close(self, bodies: Mapping[str, Message]) -> NoReturn:
        """Raises RuntimeError: the answer is the opening."""
        raise RuntimeError(f"the driver closes the phase of {len(bodies)} silos before it recovered the masks")

    def _combined(
        self, bodies: Mapping[str, round_pb2.RevealedShares], shares: Callable[[round_pb2.RevealedShares], Any]
    ) -> dict[str, bytes]:
        """Return the secrets of one kind, by owner."""
        round_ = self.uploads.group.round
        by_owner: dict[str, dict[int, bytes]] = {}
        for holder, body in bodies.items():
            for share in shares(body):
                by_owner.setdefault(share.silo, {})[round_.plan.point(holder)] = share.share
        return {owner: shamir.combine(held, round_.threshold) for owner, held in by_owner.items()}


@dataclass(frozen=True)
class Recovered:
    """UNMASK, when the masks are recovered: the aggregator opens the sum, and says what opened it."""

    collecting: CollectingShares
    opening: round_pb2.Opening
    """Without a sum root as long as the sum is not opened."""

    @cached_property
    def masks(self) -> Masks:
        """What, added to the sum, opens it (6.7.1)."""
        return opening_masks(self.collecting.uploads.group.round.plan, self.opening)

    def check(self, silo: str, body: round_pb2.RevealedShares) -> None:
        """Check one silo's shares, though they come late."""
        self.collecting.check(silo, body)

    def unmask(self, index: int, words: Words) -> None:
        """Subtract, in place, the survivors' self masks, and the pairwise masks whose other end was dropped (6.7)."""
        add_masks(words, self.masks, self.collecting.uploads.group.digest, index)

    def summed(self, root: bytes) -> "Recovered":
        """Return what is known once the sum is opened, with the Merkle root over its chunks (5.6.5)."""
        opening = round_pb2.Opening()
        opening.CopyFrom(self.opening)
        opening.sum_root = root
        return replace(self, opening=opening)

    def close(self, bodies: Mapping[str, round_pb2.RevealedShares]) -> tuple[Answers, CollectingOpeningSignatures]:
        """Tell everybody the opening."""
        group = self.collecting.uploads.group
        return dict.fromkeys(bodies, self.opening), CollectingOpeningSignatures(group, self.opening)
