"""What arrives over the network: messages, plans, transcripts, and what a round's sessions are told."""

from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from crypto.backends.verification import verify_transcript
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.plan_rules import decode_plan
from fuzz.target import Target, canonical
from scenarios.world import World, random_lanes
from silo_agent.consent.plan_in_words import plan_in_words, sentences
from silo_agent.consent.policy import Approval, Policy, check_policy
from sparsilo.v1 import identity_pb2, plan_pb2, round_pb2, words_pb2
from support.plans import plan, plan_message, signing_keys
from support.small_plans import SMALL_PLANS

KINDS: list[type[Message]] = [
    GetMessageClass(descriptor)
    for module in (identity_pb2, plan_pb2, round_pb2, words_pb2)
    for descriptor in module.DESCRIPTOR.message_types_by_name.values()
]
KEYS = signing_keys(4)
ROSTER = {silo: key.public_bytes for silo, key in KEYS.items()}
TRUSTING = Policy(Approval.AUTO, None, **SMALL_PLANS)


def wire(data: bytes) -> None:
    """The first byte chooses the message."""
    kind, data = KINDS[data[0] % len(KINDS)] if data else KINDS[0], data[1:]
    for spelling in (data, canonical(kind, data)):
        assert encode(decode(kind, spelling, MESSAGE_LIMIT)) == spelling


def decoded_plan(data: bytes) -> None:
    checked = decode_plan(canonical(plan_pb2.Plan, data))
    for index in range(len(checked.message.rounds)):
        checked.round_digest(index, bytes(32))
    silo = checked.silos[0]
    assert list(sentences(plan_in_words(checked, silo)))
    check_policy(checked, TRUSTING, silo)


def transcript(data: bytes) -> None:
    verify_transcript(canonical(round_pb2.Transcript, data), ROSTER)


def played() -> World:
    world = World(plan(), KEYS)
    world.run(random_lanes(world.plan, seed=0))
    return world


def wire_seeds() -> Iterator[bytes]:
    seeds: dict[type[Message], bytes] = {
        plan_pb2.Plan: encode(plan_message()),
        round_pb2.Transcript: encode(played().aggregator.transcript),
    }
    for at, kind in enumerate(KINDS):
        yield bytes([at]) + seeds.get(kind, b"")


TARGETS = {
    "wire": Target(wire, wire_seeds, mutants=5000),
    "plan": Target(decoded_plan, lambda: [plan().encoded]),
    "transcript": Target(transcript, lambda: [encode(played().aggregator.transcript)]),
}
