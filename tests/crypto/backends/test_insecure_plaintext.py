"""The backend that hides nothing: words travel and add up as they are."""

import numpy as np
import pytest

from crypto.backends.insecure_plaintext import sessions
from crypto.encoding.layout import pack_chunk
from crypto.errors import BadUpload, TooFewSurvivors
from crypto.names import Backend, Phase
from crypto.plan import Plan
from scenarios.world import World, plain_sum, random_lanes
from support.plans import plan, signing_keys

LOST = {"silo-001": Phase.PLAN, "silo-003": Phase.UPLOAD}


def agreed(silos: int = 5) -> Plan:
    return plan(silos, threshold=3, backend=Backend.INSECURE_PLAINTEXT)


def test_its_name_says_what_it_is() -> None:
    assert all(name.startswith("Insecure") for name in vars(sessions) if "Plaintext" in name)
    assert str(Backend.INSECURE_PLAINTEXT) == "insecure_plaintext"


def test_words_travel_as_they_are() -> None:
    world = World(agreed(), signing_keys(5))
    lanes = random_lanes(world.plan, seed=1)
    world.run(lanes)
    for silo in world.plan.silos:
        for chunk, sent in zip(world.layout.chunks, world.wire[silo], strict=True):
            values = lanes[silo][chunk.section.name][chunk.start : chunk.start + chunk.lanes]
            assert sent == pack_chunk(chunk, values).astype("<u8").tobytes()
    words = np.arange(9, dtype=np.uint64)
    world.aggregator.unmask_chunk(0, words)
    assert words.tolist() == list(range(9))


@pytest.mark.parametrize("lost", [{}, LOST, {"silo-000": Phase.UPLOAD}])
def test_the_sum_is_that_of_the_masked_backend(lost: dict[str, Phase]) -> None:
    world = World(agreed(), signing_keys(5), lost)
    lanes = random_lanes(world.plan, seed=2)
    opened = world.run(lanes)
    masked = World(plan(5, threshold=3), signing_keys(5), lost).run(lanes)
    survivors = tuple(silo for silo in world.plan.silos if silo not in lost)
    assert world.aggregator.survivors == survivors
    assert world.aggregator.dropped == lost
    expected = plain_sum(lanes, survivors)
    for name, sums in opened.items():
        assert sums.tolist() == masked[name].tolist() == expected[name]


def test_too_few_are_refused_here_too() -> None:
    world = World(agreed(), signing_keys(5), {**LOST, "silo-004": Phase.UPLOAD})
    with pytest.raises(TooFewSurvivors, match=r"^phase upload: 2 of 5 silos answered and 3 are needed"):
        world.run(random_lanes(world.plan, seed=3))


def test_the_root_is_checked_here_too() -> None:
    world = World(agreed(), signing_keys(5))
    lanes = random_lanes(world.plan, seed=4)
    world.step(lanes)
    world.upload("silo-002", lanes["silo-002"])
    world.aggregator.uploaded("silo-002", bytes(32))
    with pytest.raises(BadUpload, match=r"^silo-002: "):
        world.aggregator.receive("silo-002", world.silos["silo-002"].message())
