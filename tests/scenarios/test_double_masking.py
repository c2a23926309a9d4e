"""Honest rounds in the simulated world: exact over the survivors, whoever is lost and whenever."""

import numpy as np
import pytest
from scipy.stats import chisquare

from crypto.errors import TooFewSurvivors
from crypto.names import Backend, Phase
from plans import plan, signing_keys
from scenarios.world import World, plain_sum, random_lanes

PHASES = [Phase.PLAN, Phase.KEYS, Phase.SHARES, Phase.UPLOAD, Phase.CONSISTENCY, Phase.UNMASK]


@pytest.mark.parametrize("silos", [3, 4, 5, 17])
@pytest.mark.parametrize("backend", list(Backend))
def test_the_opened_sum_is_exact(silos: int, backend: Backend) -> None:
    agreed = plan(silos, backend=backend)
    lanes = random_lanes(agreed, seed=silos)
    opened = World(agreed, signing_keys(silos)).run(lanes)
    for name, expected in plain_sum(lanes, agreed.silos).items():
        assert opened[name].tolist() == expected


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("lost", [("silo-000",), ("silo-004",), ("silo-001", "silo-003")])
def test_a_silo_lost_in_any_phase_leaves_an_exact_sum_over_the_survivors(phase: Phase, lost: tuple[str, ...]) -> None:
    agreed = plan(5, threshold=3)
    lanes = random_lanes(agreed, seed=1)
    world = World(agreed, signing_keys(5), dict.fromkeys(lost, phase))
    opened = world.run(lanes)
    uploaded = phase in (Phase.CONSISTENCY, Phase.UNMASK)
    survivors = agreed.silos if uploaded else tuple(silo for silo in agreed.silos if silo not in lost)
    assert world.aggregator.survivors == survivors
    assert world.aggregator.dropped == dict.fromkeys(lost, phase)
    for name, expected in plain_sum(lanes, survivors).items():
        assert opened[name].tolist() == expected


def test_silos_lost_in_different_phases() -> None:
    agreed = plan(9, threshold=5)
    lanes = random_lanes(agreed, seed=2)
    lost = {"silo-001": Phase.KEYS, "silo-002": Phase.SHARES, "silo-003": Phase.UPLOAD, "silo-008": Phase.UNMASK}
    world = World(agreed, signing_keys(9), lost)
    opened = world.run(lanes)
    survivors = tuple(s for s in agreed.silos if s not in {"silo-001", "silo-002", "silo-003"})
    assert world.aggregator.survivors == survivors
    for name, expected in plain_sum(lanes, survivors).items():
        assert opened[name].tolist() == expected


@pytest.mark.parametrize("phase", PHASES)
def test_below_the_threshold_the_round_aborts_and_names_the_phase(phase: Phase) -> None:
    agreed = plan(4, threshold=3)
    world = World(agreed, signing_keys(4), {"silo-000": phase, "silo-002": phase})
    with pytest.raises(TooFewSurvivors, match=f"phase {phase}: 2 of 4 silos answered and 3 are needed"):
        world.run(random_lanes(agreed, seed=3))
    world.aggregator.abort("too few")
    assert world.aggregator.phase is Phase.ABORTED


def test_words_on_the_wire_are_uniform_and_unrelated_between_rounds() -> None:
    agreed = plan(4, shape=(4096, 5200), tensors=1, chunk_words=1 << 17)
    world, again = World(agreed, signing_keys(4)), World(agreed, signing_keys(4))
    keep_mask = {s.name: np.ones(s.lanes, np.uint64) for s in world.layout.sections}  # as regular as can be
    lanes = dict.fromkeys(agreed.silos, keep_mask)
    for each in (world, again):
        while each.aggregator.phase is not Phase.UPLOAD:
            each.step(lanes)
        each.upload("silo-002", keep_mask)
    first, second = (np.frombuffer(b"".join(each.wire["silo-002"]), np.uint8) for each in (world, again))
    assert first.size >= 7_900_000
    both = np.concatenate([first, second])
    assert both.size >= 10_000_000
    assert chisquare(np.bincount(both, minlength=256)).pvalue > 1e-6
    assert chisquare(np.bincount(first ^ second, minlength=256)).pvalue > 1e-6
    assert chisquare(np.bincount(first - second, minlength=256)).pvalue > 1e-6
    assert np.mean(first == second) == pytest.approx(1 / 256, rel=0.05)


def test_one_plaintext_masked_by_different_silos_is_unrelated() -> None:
    agreed = plan(3, shape=(512, 512), tensors=1, chunk_words=1 << 12)
    world = World(agreed, signing_keys(3))
    lanes = {s.name: np.zeros(s.lanes, np.uint64) for s in world.layout.sections}
    world.run(dict.fromkeys(agreed.silos, lanes))
    words = [np.frombuffer(b"".join(world.wire[silo]), np.uint8) for silo in agreed.silos]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert chisquare(np.bincount(words[one] ^ words[other], minlength=256)).pvalue > 1e-6
