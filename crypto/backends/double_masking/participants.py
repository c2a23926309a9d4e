"""The participants of a round, from PLAN on: as one of them knows the others, and as the aggregator knows them all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from crypto.backends.double_masking.transcript import Signatures, check_enough, check_signature, check_signatures
from crypto.names import Phase
from crypto.plan import Plan
from crypto.primitives.signing import SigningKey
from crypto.secagg.round import Round
from sparsilo.v1 import round_pb2

Answers = dict[str, Message]
"""By silo, what the aggregator tells it when a phase closes."""


@dataclass(frozen=True)
class Participant:
    """A silo that knows who takes part with it."""

    round: Round
    silo: str
    signing_key: SigningKey
    keys: Mapping[str, round_pb2.SignedKey]
    """By silo what each participant signed in PLAN, this silo's among them."""
    digest: bytes
    """32 bytes that stand for the round and `keys`."""

    @property
    def plan(self) -> Plan:
        """The round's plan."""
        return self.round.plan

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Return this silo's signature over a message; the context is what it is for."""
        return self.signing_key.sign(context + self.digest, message)

    def check_signers(
        self, signatures: Signatures, allowed: Sequence[str], context: bytes, message: bytes, phase: Phase
    ) -> tuple[str, ...]:
        """Return the silos of `allowed`, t or more, that signed one message.

        Raises MalformedMessage, BadSignature, or TooFewSurvivors naming the phase.
        """
        names = check_signatures(self.plan, self.digest, signatures, allowed, context, message)
        check_enough(len(names), self.round.threshold, phase)
        return names


@dataclass(frozen=True)
class Group:
    """The participants, as the aggregator knows them from PLAN on."""

    round: Round
    digest: bytes
    """32 bytes that stand for the round and the participants' signed keys."""
    commitments: Mapping[str, bytes]
    """By participant, ascending, what fixes its coin."""

    def check(self, silo: str, signature: bytes, context: bytes, message: bytes) -> None:
        """Check one silo's signature. Raises BadSignature."""
        check_signature(self.round.plan, silo, signature, context + self.digest, message)


def forward(bodies: Mapping[str, Any], signatures: Callable[..., Message]) -> Answers:
    """Return for everybody what everybody signed. `signatures` is the message of all of them."""
    message = signatures(
        signatures=[round_pb2.SiloSignature(silo=silo, signature=body.signature) for silo, body in bodies.items()]
    )
    return dict.fromkeys(bodies, message)
