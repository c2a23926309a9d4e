"""PLAN, KEYS and SHARES: silos show each other signed keys, agree on a seed a pair, and share what recovers their masks
(docs/protocol.md, 5.1 to 5.3).

A class is what one role knows in one phase. A silo's says the phase's message and takes its answer; the aggregator's
checks silos' messages and answers them. Either then is what is known in the next phase.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crypto.backends.double_masking.participants import Answers, Group, Participant
from crypto.backends.double_masking.transcript import (
    ACCEPTANCE,
    SEED_BYTES,
    bundle_bytes,
    check_ascending,
    check_enough,
    check_names,
    check_participants,
    check_signature,
    coin_commitment,
    others,
    pair_seed,
    participants_digest,
    seal_bundle,
    seal_info,
)
from crypto.backends.double_masking.unmasking import CollectingUploads, Masked, SharePair
from crypto.errors import MalformedMessage, ProtocolError
from crypto.names import AGGREGATOR, Phase
from crypto.primitives import shamir
from crypto.primitives.sealed import SealingKey, check_public, seal
from crypto.primitives.signing import SigningKey
from crypto.secagg.round import Round
from crypto.secagg.session import Entropy
from sparsilo.v1 import round_pb2


@dataclass(frozen=True)
class Secrets:
    """What a silo makes up for one round; nothing of it outlives the round."""

    sealing_key: SealingKey
    self_seed: bytes
    bundle_key: bytes
    coin: bytes


@dataclass(frozen=True)
class Accepted:
    """PLAN: a silo accepts the round, with a fresh sealing key and a commitment to its coin."""

    round: Round
    silo: str
    signing_key: SigningKey
    entropy: Entropy
    secrets: Secrets

    def message(self) -> round_pb2.Acceptance:
        """Return the signed sealing key and coin commitment (5.1.2)."""
        key = self.secrets.sealing_key.public_bytes
        commitment = coin_commitment(self.round.digest, self.silo, self.secrets.coin)
        signature = self.signing_key.sign(ACCEPTANCE + self.round.digest, key + commitment)
        return round_pb2.Acceptance(sealing_key=key, coin_commitment=commitment, signature=signature)

    def receive(self, message: round_pb2.Participants) -> "Contributed":
        """Check the participants and draw a contribution for each other one (5.1.4, 5.2.1). Raises ProtocolError."""
        check_participants(self.round, message)
        keys = {key.silo: key for key in message.keys}
        if self.silo not in keys or keys[self.silo].sealing_key != self.secrets.sealing_key.public_bytes:
            raise ProtocolError("the participant set lacks this silo's own key", party=AGGREGATOR)
        check_enough(len(keys), self.round.least_survivors, Phase.PLAN)
        digest = participants_digest(self.round.digest, message)
        own = Participant(self.round, self.silo, self.signing_key, keys, digest)
        contributions = {peer: self.entropy(SEED_BYTES) for peer in others(keys, self.silo)}
        return Contributed(own, self.entropy, self.secrets, contributions)


@dataclass(frozen=True)
class Contributed:
    """KEYS: a silo contributes to the seed that it will share with each peer."""

    own: Participant
    entropy: Entropy
    secrets: Secrets
    contributions: Mapping[str, bytes]
    """By peer, this silo's own."""

    def message(self) -> round_pb2.PairSeeds:
        """Return each contribution, sealed for its peer (5.2.1)."""
        sealed = [_seal(self.own, b"contribution", peer, secret) for peer, secret in self.contributions.items()]
        return round_pb2.PairSeeds(sealed=sealed)

    def receive(self, message: round_pb2.PairSeedDelivery) -> "Shared":
        """Derive the pair seeds, and split self seed and bundle key for all who have one (5.2.3, 5.3.1).

        Raises ProtocolError.
        """
        own = self.own
        theirs = _open_all(self, b"contribution", message.sealed, own.keys, SEED_BYTES, Phase.KEYS)
        pair_seeds = {
            peer: pair_seed(own.digest, own.plan, own.silo, peer, {own.silo: self.contributions[peer], peer: secret})
            for peer, secret in theirs.items()
        }
        holders = sorted([own.silo, *pair_seeds])
        points = [own.plan.point(silo) for silo in holders]
        of_seed = shamir.split(self.secrets.self_seed, own.round.threshold, points, self.entropy)
        of_key = shamir.split(self.secrets.bundle_key, own.round.threshold, points, self.entropy)
        shares = {silo: (of_seed[point], of_key[point]) for silo, point in zip(holders, points, strict=True)}
        return Shared(own, self.secrets, pair_seeds, shares)


@dataclass(frozen=True)
class Shared:
    """SHARES: a silo shares its self seed and bundle key, and hands over its pair seeds under the latter."""

    own: Participant
    secrets: Secrets
    pair_seeds: Mapping[str, bytes]
    """By peer."""
    own_shares: Mapping[str, SharePair]
    """By holder, of this silo's secrets; what itself holds among them."""

    def message(self) -> round_pb2.Shares:
        """Return each peer's two shares, sealed for it, and the bundle (5.3.2)."""
        own = self.own
        holders = others(self.own_shares, own.silo)
        return round_pb2.Shares(
            sealed=[_seal(own, b"shares", peer, b"".join(self.own_shares[peer])) for peer in holders],
            bundle=seal_bundle(self.secrets.bundle_key, own.digest, own.silo, self.pair_seeds),
        )

    def receive(self, message: round_pb2.ShareDelivery) -> Masked:
        """Take the peers' shares; with their senders this silo will be masked (5.3.4). Raises ProtocolError."""
        own, length = self.own, shamir.SHARE_BYTES
        opened = _open_all(self, b"shares", message.sealed, self.pair_seeds, 2 * length, Phase.SHARES)
        shares = {peer: (both[:length], both[length:]) for peer, both in opened.items()}
        shares[own.silo] = self.own_shares[own.silo]
        return Masked(own, self.secrets.coin, self.secrets.self_seed, self.pair_seeds, shares)


def _seal(own: Participant, purpose: bytes, peer: str, plaintext: bytes) -> round_pb2.Sealed:
    info = seal_info(purpose, own.digest, own.silo, peer)
    return round_pb2.Sealed(silo=peer, sealed=seal(own.plan.suite, own.keys[peer].sealing_key, plaintext, info))


def _open_all(
    known: Contributed | Shared, purpose: bytes, sealed: Any, allowed: Iterable[str], length: int, phase: Phase
) -> dict[str, bytes]:
    """Return the sealed messages to this silo, opened, by sender.

    With this silo they must be least survivors or more.
    """
    own = known.own
    check_ascending([item.silo for item in sealed], list(others(allowed, own.silo)), purpose.decode(), AGGREGATOR)
    opened = {}
    for item in sealed:
        info = seal_info(purpose, own.digest, item.silo, own.silo)
        opened[item.silo] = known.secrets.sealing_key.open(item.sealed, info, party=item.silo)
    for silo, plaintext in opened.items():
        if len(plaintext) != length:
            raise MalformedMessage(f"a sealed {purpose.decode()} has the wrong length", party=silo)
    check_enough(len(opened) + 1, own.round.least_survivors, phase)
    return opened


# The aggregator's side


@dataclass(frozen=True)
class CollectingKeys:
    """PLAN: the aggregator collects the sealing keys of those who accept."""

    round: Round

    def check(self, silo: str, body: round_pb2.Acceptance) -> None:
        """Check one silo's key and signature (5.1.3). Raises BadSeal or BadSignature."""
        plan = self.round.plan
        check_public(plan.suite, body.sealing_key, party=silo)  # a malformed key would stop every other silo
        signed = body.sealing_key + body.coin_commitment
        check_signature(plan, silo, body.signature, ACCEPTANCE + self.round.digest, signed)

    def close(self, bodies: Mapping[str, round_pb2.Acceptance]) -> tuple[Answers, "RoutingSeeds"]:
        """Tell everybody the participants."""
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
        commitments = {silo: body.coin_commitment for silo, body in bodies.items()}
        group = Group(self.round, participants_digest(self.round.digest, message), commitments)
        return dict.fromkeys(bodies, message), RoutingSeeds(group)


@dataclass(frozen=True)
class RoutingSeeds:
    """KEYS: the aggregator passes on contributions, which it cannot read."""

    group: Group

    def check(self, silo: str, body: round_pb2.PairSeeds) -> None:
        """Check that one silo sealed something for every other (5.2.2). Raises MalformedMessage."""
        _check_sealed(body.sealed, self.group.commitments, silo)

    def close(self, bodies: Mapping[str, round_pb2.PairSeeds]) -> tuple[Answers, "RoutingShares"]:
        """Hand each silo what the others sealed for it."""
        return _route(bodies, round_pb2.PairSeedDelivery), RoutingShares(self.group, tuple(bodies))


@dataclass(frozen=True)
class RoutingShares:
    """SHARES: the aggregator passes on shares, which it cannot read, and keeps the bundles, which it cannot open."""

    group: Group
    contributors: tuple[str, ...]
    """The silos that sent contributions: a bundle has a seed for each other one."""

    def check(self, silo: str, body: round_pb2.Shares) -> None:
        """Check that one silo sealed something for every other, and its bundle's length (5.3.3).

        Raises MalformedMessage.
        """
        _check_sealed(body.sealed, self.contributors, silo)
        if len(body.bundle) != bundle_bytes(len(self.contributors) - 1):
            raise MalformedMessage("its bundle has the wrong length", party=silo)

    def close(self, bodies: Mapping[str, round_pb2.Shares]) -> tuple[Answers, CollectingUploads]:
        """Hand each silo what the others sealed for it."""
        bundles = {silo: body.bundle for silo, body in bodies.items()}
        return _route(bodies, round_pb2.ShareDelivery), CollectingUploads(self.group, self.contributors, bundles)


def _check_sealed(sealed: Any, silos: Iterable[str], silo: str) -> None:
    check_names([item.silo for item in sealed], list(others(silos, silo)), "sealed messages", silo)


def _route(bodies: Mapping[str, Any], delivery: Callable[[], Any]) -> Answers:
    """Return each silo's delivery: what every other silo sealed for it, ascending by sender."""
    routed = {silo: delivery() for silo in bodies}
    for sender, body in bodies.items():  # each is decoded once
        for item in body.sealed:
            if item.silo in routed:
                routed[item.silo].sealed.add(silo=sender, sealed=item.sealed)
    return routed
