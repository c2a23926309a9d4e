"""What attacks on layer sampling share: five silos whose coin was opened, and so a cohort of three for each block."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crypto.encoding.wire import encode
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.secagg.round import Round
from scenarios.world import World, random_lanes, tree
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from sparsilo.v1 import plan_pb2
from support.plans import signing_keys

ME = "silo-002"
CAPACITIES = (2, 1, 1, 1, 1)


def with_layer_sampling(message: plan_pb2.Plan) -> Plan:
    """Two blocks, three silos each."""
    message.pruning.cohort_floor = 3
    for member, capacity in zip(message.roster, CAPACITIES, strict=True):
        member.capacity = capacity
    del message.rounds[:]
    message.rounds.add().sampling.SetInParent()
    for block in range(2):
        message.rounds.add(block=block).votes.SetInParent()
    return checked_plan(message)


def played(plan: Plan, seed: int, **fields: Any) -> World:
    """The sampling round."""
    world = World(plan, signing_keys(5), **fields)
    world.run(random_lanes(plan, seed, fields.get("round_")))
    return world


def start_after(world: World, folder: Path, words: Sequence[bytes] = ()) -> Start:
    """What follows from its sum, or from words that are said to be its sum."""
    chunks = list(words or world.opened)
    file = folder / f"{tree(chunks).root.hex()}.words"
    file.write_bytes(b"".join(chunks))
    return Start(world.plan, [OpenedRound(world.round, len(world.aggregator.survivors), tree(chunks).root, file)])


def serve(silo: Any, world: World, words: Sequence[bytes] = ()) -> None:
    """The aggregator serves the round's transcript, and its sum or these words."""
    silo.served["opened_sum", world.round.digest] = b"".join(words or world.opened)
    silo.served["transcript", world.round.digest] = encode(world.aggregator.transcript)


def offer_of(round_: Round) -> dict[str, Any]:
    return {"index": round_.index, "input_": round_.input_digest, "cohort": round_.cohort}


def drawn(silo: Any, folder: Path, *, in_cohort: bool = True) -> tuple[World, Start]:
    """A sampling round whose coin draws the approached silo for block 0, or does not; it is served."""
    plan = with_layer_sampling(silo.agreed)
    for seed in range(99):
        world = played(plan, seed)
        start = start_after(world, folder)
        if (ME in start.round.cohort) is in_cohort:
            serve(silo, world)
            return world, start
    raise AssertionError("no such coin")
