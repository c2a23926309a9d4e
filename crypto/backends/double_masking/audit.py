"""OPENING, COIN and AUDIT: the opened sum is signed, a joint coin gives chunks to silos, which recompute them
(docs/protocol.md, 5.7 to 5.9). Classes are as in `key_agreement`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crypto.backends.double_masking.participants import Answers, Group, Participant, forward
from crypto.backends.double_masking.replay import Replay, check_covered
from crypto.backends.double_masking.transcript import (
    OPENING,
    VERDICT,
    Auditors,
    auditors,
    auditors_a_chunk,
    check_coins,
    coin_commitment,
    joint_coin,
)
from crypto.encoding.wire import encode
from crypto.errors import BadAudit
from crypto.names import AGGREGATOR, Phase
from sparsilo.v1 import round_pb2


@dataclass(frozen=True)
class Opened:
    """OPENING: a silo signs the opening, and with it the sum's root."""

    own: Participant
    coin: bytes
    roots: round_pb2.Survivors
    opening: round_pb2.Opening

    @cached_property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, ascending."""
        return tuple(signed.silo for signed in self.roots.roots)

    def message(self) -> round_pb2.OpeningSignature:
        """Return the signature over the opening (5.7.1)."""
        return round_pb2.OpeningSignature(signature=self.own.sign(OPENING, encode(self.opening)))

    def receive(self, message: round_pb2.OpeningSignatures) -> "Tossed":
        """Check that t silos signed the same opening, this one among them (5.7.3). Raises ProtocolError."""
        signers = self.own.check_signers(message, self.survivors, OPENING, encode(self.opening), Phase.OPENING)
        if self.own.silo not in signers:
            raise BadAudit("the signatures of the opening lack this silo's own", party=AGGREGATOR)
        return Tossed(self, signers)


@dataclass(frozen=True)
class Tossed:
    """COIN: the sum is fixed by signatures, so a silo shows its coin."""

    opened: Opened
    signers: tuple[str, ...]
    """The silos that signed the opening, ascending."""

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, ascending."""
        return self.opened.survivors

    def message(self) -> round_pb2.Coin:
        """Return the coin that was committed to in PLAN (5.8.1)."""
        return round_pb2.Coin(coin=self.opened.coin)

    def receive(self, message: round_pb2.Coins) -> "Audited":
        """Check the signers' coins and draw the auditors (5.8.2, 5.8.3). Raises BadAudit or MalformedMessage."""
        own = self.opened.own
        commitments = {silo: own.keys[silo].coin_commitment for silo in self.signers}
        check_coins(message, own.round.digest, commitments, AGGREGATOR)
        return Audited(self.opened, self.signers, joint_coin(own.digest, message))


@dataclass(frozen=True)
class Audited:
    """AUDIT: a silo recomputes the chunks that the joint coin gave it. The verdicts teach it nothing more."""

    opened: Opened
    signers: tuple[str, ...]
    joint_coin: bytes

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose uploads make up the sum, ascending."""
        return self.opened.survivors

    @cached_property
    def auditors(self) -> Auditors:
        """Each chunk's auditors, as places among `signers`."""
        round_ = self.opened.own.round
        return auditors(self.joint_coin, len(round_.layout.chunks), len(self.signers), auditors_a_chunk(round_.plan))

    @property
    def assigned(self) -> Sequence[int]:
        """The chunks of which this silo is an auditor, ascending."""
        place = self.signers.index(self.opened.own.silo)
        chunks: list[int] = np.flatnonzero((self.auditors == place).any(axis=1)).tolist()
        return chunks

    @cached_property
    def replay(self) -> Replay:
        """What recomputes a chunk (5.9.2)."""
        own = self.opened.own
        return Replay(own.round, own.digest, self.opened.roots, self.opened.opening)

    def message(self) -> round_pb2.Verdict:
        """Return the signature that says that all assigned chunks are right (5.9.3)."""
        return round_pb2.Verdict(signature=self.opened.own.sign(VERDICT, judged(self.opened.opening, self.joint_coin)))

    def receive(self, message: round_pb2.Verdicts) -> "Audited":
        """Check that t silos agree, and that every chunk was recomputed (5.9.4). Raises ProtocolError."""
        own, verdict = self.opened.own, judged(self.opened.opening, self.joint_coin)
        judges = own.check_signers(message, self.signers, VERDICT, verdict, Phase.AUDIT)
        check_covered(self.auditors, [self.signers.index(silo) for silo in judges], own.plan.message.colluders)
        return self


def judged(opening: round_pb2.Opening, coin: bytes) -> bytes:
    """Return what a verdict signs: the opening, and the joint coin that gave out the chunks."""
    return encode(opening) + coin


# The aggregator's side


@dataclass(frozen=True)
class CollectingOpeningSignatures:
    """OPENING: the aggregator collects signatures over the opening."""

    group: Group
    opening: round_pb2.Opening

    def check(self, silo: str, body: round_pb2.OpeningSignature) -> None:
        """Check one silo's signature (5.7.2). Raises BadSignature."""
        self.group.check(silo, body.signature, OPENING, encode(self.opening))

    def close(self, bodies: Mapping[str, round_pb2.OpeningSignature]) -> tuple[Answers, "CollectingCoins"]:
        """Forward the signatures to everybody."""
        return forward(bodies, round_pb2.OpeningSignatures), CollectingCoins(self.group, self.opening, tuple(bodies))


@dataclass(frozen=True)
class CollectingCoins:
    """COIN: the aggregator collects the coins of all who signed the opening."""

    group: Group
    opening: round_pb2.Opening
    signers: tuple[str, ...]

    def check(self, silo: str, body: round_pb2.Coin) -> None:
        """Check one silo's coin against its commitment (5.8.2). Raises BadAudit."""
        if coin_commitment(self.group.round.digest, silo, body.coin) != self.group.commitments[silo]:
            raise BadAudit("its coin is not the one it committed to", party=silo)

    def close(self, bodies: Mapping[str, round_pb2.Coin]) -> tuple[Answers, "CollectingVerdicts"]:
        """Tell everybody the coins, which draw the auditors."""
        coins = [round_pb2.SiloCoin(silo=silo, coin=body.coin) for silo, body in bodies.items()]
        message = round_pb2.Coins(coins=coins)
        coin = joint_coin(self.group.digest, message)
        round_ = self.group.round
        drawn = auditors(coin, len(round_.layout.chunks), len(self.signers), auditors_a_chunk(round_.plan))
        verdict = judged(self.opening, coin)
        return dict.fromkeys(bodies, message), CollectingVerdicts(self.group, self.signers, drawn, verdict)


@dataclass(frozen=True)
class CollectingVerdicts:
    """AUDIT: the aggregator hands chunks to their auditors, and collects verdicts."""

    group: Group
    signers: tuple[str, ...]
    auditors: Auditors
    judged: bytes

    def may_audit(self, silo: str, index: int) -> bool:
        """Return whether the joint coin gave the chunk to that silo (5.9.1)."""
        if silo not in self.signers or index >= len(self.auditors):
            return False
        return self.signers.index(silo) in self.auditors[index]

    @property
    def assigned_bytes(self) -> dict[str, int]:
        """How many bytes the chunks have that each signer is an auditor of."""
        lengths = np.repeat(self.group.round.layout.lengths, self.auditors.shape[1])
        of_places = np.bincount(self.auditors.ravel(), lengths, len(self.signers))
        return {silo: int(of_places[place]) for place, silo in enumerate(self.signers)}

    def check(self, silo: str, body: round_pb2.Verdict) -> None:
        """Check one silo's signature (5.9.5). Raises BadSignature."""
        self.group.check(silo, body.signature, VERDICT, self.judged)

    def close(self, bodies: Mapping[str, round_pb2.Verdict]) -> tuple[Answers, "CollectingVerdicts"]:
        """Forward the verdicts to everybody. Raises BadAudit where a chunk lacks one (5.9.5)."""
        judged_by = [self.signers.index(silo) for silo in bodies]
        check_covered(self.auditors, judged_by, self.group.round.plan.message.colluders)
        return forward(bodies, round_pb2.Verdicts), self
