"""Honest rounds in the simulated world: exact over the survivors, whoever is lost and whenever."""

import numpy as np
import pytest
from scipy.stats import chisquare

from crypto.backends.double_masking.phases import TABLE
from crypto.encoding.wire import encode
from crypto.errors import BadAudit, TooFewSurvivors
from crypto.names import Backend, Phase, Suite
from crypto.plan import Plan
from scenarios.world import World, plain_sum, random_lanes
from sparsilo.v1 import round_pb2
from support.plans import plan, signing_keys

PHASES = list(TABLE)
SIGNERS = ("silo-000", "silo-002", "silo-004")


@pytest.mark.parametrize(
    ("silos", "backend", "suite"),
    [(silos, backend, Suite.DEFAULT) for silos in (3, 4, 5, 17) for backend in Backend]
    + [(4, Backend.DOUBLE_MASKING, Suite.FIPS)],
)
def test_the_opened_sum_is_exact(silos: int, backend: Backend, suite: Suite) -> None:
    agreed = plan(silos, backend=backend, suite=suite)
    lanes = random_lanes(agreed, seed=silos)
    opened = World(agreed, signing_keys(silos, suite)).run(lanes)
    for name, expected in plain_sum(lanes, agreed.silos).items():
        assert opened[name].tolist() == expected


@pytest.mark.parametrize(
    ("lost", "phase"),
    [
        (lost, phase)
        for lost in (("silo-000",), ("silo-004",), ("silo-001", "silo-003"))
        for phase in PHASES
        if phase is not Phase.COIN and (phase is not Phase.AUDIT or len(lost) == 1)
    ],
)
def test_a_silo_lost_in_any_phase_leaves_an_exact_sum_over_the_survivors(phase: Phase, lost: tuple[str, ...]) -> None:
    agreed = plan(5, threshold=3)
    lanes = random_lanes(agreed, seed=1)
    world = World(agreed, signing_keys(5), dict.fromkeys(lost, phase))
    opened = world.run(lanes)
    uploaded = PHASES.index(phase) > PHASES.index(Phase.UPLOAD)
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
    needed = 4 if phase is Phase.COIN else 3
    with pytest.raises(TooFewSurvivors, match=f"phase {phase}: 2 of 4 silos answered and {needed} are needed"):
        world.run(random_lanes(agreed, seed=3))
    world.aggregator.abort("too few")
    assert world.aggregator.phase is Phase.ABORTED


@pytest.mark.clause("5.8.3")
def test_every_silo_that_signed_the_opening_must_reveal_its_coin() -> None:
    agreed = plan(5, threshold=3)
    world = World(agreed, signing_keys(5), {"silo-001": Phase.OPENING, "silo-003": Phase.COIN})
    with pytest.raises(TooFewSurvivors, match=r"^phase coin: 3 of 5 silos answered and 4 are needed"):
        world.run(random_lanes(agreed, seed=4))


def audited(agreed: Plan, lost: dict[str, Phase]) -> World:
    world = World(agreed, signing_keys(len(agreed.silos)), lost)
    while world.aggregator.phase is not Phase.AUDIT:
        world.step(random_lanes(agreed, seed=4))
    for silo in world.aggregator.expected:
        for index in world.silos[silo].assigned:
            world.silos[silo].audit(index, world.committed(index))
    return world


@pytest.mark.clause("5.9.1")
def test_every_chunk_has_two_auditors_who_signed_the_opening_and_nobody_else_is_given_it() -> None:
    world = audited(plan(5, threshold=3, chunk_words=1), {"silo-001": Phase.OPENING, "silo-003": Phase.UPLOAD})
    chunks = len(world.layout.chunks)
    may = {silo: [i for i in range(chunks + 1) if world.aggregator.may_audit(silo, i)] for silo in world.plan.silos}
    assert may == {silo: list(session.assigned) if silo in SIGNERS else [] for silo, session in world.silos.items()}
    assert sorted(index for indices in may.values() for index in indices) == sorted([*range(chunks)] * 2)
    for silo in SIGNERS:
        world.aggregator.receive(silo, world.silos[silo].message())
    world.aggregator.close_phase()
    assert not any(world.aggregator.may_audit(silo, index) for silo in world.plan.silos for index in range(chunks))


@pytest.mark.clause("5.9.5")
@pytest.mark.parametrize(("colluders", "silent"), [(0, 2), (1, 1)])
def test_a_chunk_without_its_verdicts_ends_the_round(colluders: int, silent: int) -> None:
    """One verdict is enough where all silos are honest; where one may lie, both."""
    for missing in range(silent + 1):
        world = audited(plan(5, threshold=4 if colluders else 3, colluders=colluders), {})
        auditors = [silo for silo in world.plan.silos if world.aggregator.may_audit(silo, 2)]
        for silo in world.plan.silos:
            if silo not in auditors[:missing]:
                world.aggregator.receive(silo, world.silos[silo].message())
        if missing < silent:
            world.aggregator.close_phase()
        else:
            with pytest.raises(BadAudit, match="lack a verdict"):
                world.aggregator.close_phase()


@pytest.mark.clause("5.9.4")
@pytest.mark.parametrize(("colluders", "silent"), [(0, 2), (1, 1)])
def test_a_silo_does_not_come_to_the_end_where_a_chunk_lacks_its_verdicts(colluders: int, silent: int) -> None:
    """As if the aggregator called those silent who found a chunk wrong."""
    for missing in range(silent + 1):
        world = audited(plan(5, threshold=4 if colluders else 3, colluders=colluders), {})
        auditors = [silo for silo in world.plan.silos if world.aggregator.may_audit(silo, 2)]
        for silo, session in world.silos.items():
            world.aggregator.receive(silo, session.message())
        answer = round_pb2.AggregatorMessage.FromString(world.aggregator.close_phase()["silo-000"])
        kept = [signed for signed in answer.verdicts.signatures if signed.silo not in auditors[:missing]]
        del answer.verdicts.signatures[:]
        answer.verdicts.signatures.extend(kept)
        if missing < silent:
            world.silos["silo-000"].receive(encode(answer))
        else:
            with pytest.raises(BadAudit, match="lack a verdict"):
                world.silos["silo-000"].receive(encode(answer))
            assert world.silos["silo-000"].phase is Phase.ABORTED


@pytest.mark.clause("5.9.3")
def test_no_verdict_before_every_chunk_is_recomputed() -> None:
    agreed = plan(3, chunk_words=1)
    world = World(agreed, signing_keys(3))
    for phase in PHASES:
        session = world.silos["silo-001"]
        if phase is Phase.AUDIT:
            break
        with pytest.raises(RuntimeError, match="in AUDIT only"):
            session.audit(0, [])
        world.step(random_lanes(agreed, seed=4))
    for index in session.assigned:
        with pytest.raises(RuntimeError, match="before it had every assigned chunk recomputed"):
            session.message()
        session.audit(index, world.committed(index))
    session.message()


def test_words_on_the_wire_are_uniform_and_unrelated_between_rounds() -> None:
    agreed = plan(4, shape=(4096, 5200), tensors=1, chunk_words=1 << 17)
    world, again = World(agreed, signing_keys(4)), World(agreed, signing_keys(4))
    keep_mask = {s.name: np.ones(s.lanes, np.uint64) for s in world.layout.sections}  # as regular as can be
    lanes = dict.fromkeys(agreed.silos, keep_mask)
    for one in (world, again):
        while one.aggregator.phase is not Phase.UPLOAD:
            one.step(lanes)
        one.upload("silo-002", keep_mask)
    first, second = (np.frombuffer(b"".join(one.wire["silo-002"]), np.uint8) for one in (world, again))
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
