"""A silo computes what a plan's noise keeps of its promise, and its own noise outlives its process."""

import multiprocessing
import os
import secrets
from pathlib import Path

import numpy as np
import pytest

from crypto.encoding.layout import Chunk, Section
from crypto.errors import PlanError
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.privacy.accountant import combined_multiplier, least_multiplier
from crypto.releases.release_spec import events_of
from silo_agent.consent.state_store import StateStore
from silo_agent.releases.noise import Noise, NoisyRelease
from silo_agent.rounds.offer_checks import check_promise
from support.pooled_plans import small

ROUND, OTHER = b"r" * 32, b"s" * 32


def promising(epsilon: float, longer: float = 1.0) -> Plan:
    """A plan whose clip is as long as its promise allows, times `longer`."""
    message = small(ReleaseKind.ENERGIES, epsilon=epsilon, delta=1e-6, clip=1)
    longest = combined_multiplier(events_of(Plan(message, b""))) / least_multiplier(epsilon, 1e-6)
    message.pruning.clip = int(longest * longer)
    return checked_plan(message)


@pytest.mark.clause("2.3.10")
@pytest.mark.parametrize("epsilon", [0.5, 4.0])
def test_a_plan_whose_noise_is_not_enough_is_refused(epsilon: float) -> None:
    check_promise(promising(epsilon))
    with pytest.raises(PlanError, match=f"promises epsilon {epsilon:g} at delta 1e-06, and its noise keeps"):
        check_promise(promising(epsilon, longer=1.001))


def test_a_plan_with_a_colluder_more_may_let_units_contribute_less() -> None:
    message = promising(1.0).message
    message.colluders += 1
    check_promise(Plan(message, b""))  # one silo that looks on is reckoned with anyway
    message.colluders += 1
    with pytest.raises(PlanError, match="its noise keeps"):
        check_promise(Plan(message, b""))


def test_a_plan_without_a_promise_is_not_this_checks_business() -> None:
    check_promise(checked_plan(small(ReleaseKind.ENERGIES)))


# Noise


class Zeros:
    def lanes(self, chunk: Chunk) -> np.ndarray:
        return np.zeros(chunk.lanes, np.uint64)


def noise_of(seed: bytes, round_digest: bytes = ROUND, index: int = 0, shares: int = 1) -> list[int]:
    chunk = Chunk(index, Section("energies", 50, 64), 0, 50)
    values = NoisyRelease(Zeros(), Noise(seed, round_digest, shares)).lanes(chunk)
    return [int(value) for value in values.view(np.int64)]


def _draws_and_dies(file: Path, drawn: "multiprocessing.SimpleQueue[list[int]]") -> None:
    drawn.put(noise_of(StateStore(file).noise_seed(ROUND, secrets.token_bytes)))
    os._exit(9)


@pytest.mark.clause("2.9.5")
def test_an_agent_that_dies_before_anything_left_draws_the_same_noise(tmp_path: Path) -> None:
    """With another its values would be between the two, and a third would tell still more."""
    file = tmp_path / "agent.sqlite"
    context = multiprocessing.get_context("fork")
    drawn = context.SimpleQueue()
    agents = [context.Process(target=_draws_and_dies, args=(file, drawn)) for _ in range(2)]
    noises = []
    for agent in agents:
        agent.start()
        noises.append(drawn.get())
        agent.join()
        assert agent.exitcode == 9
    assert noises[0] == noises[1]
    assert any(noises[0])


@pytest.mark.clause("2.9.5")
def test_a_seed_is_of_one_round_and_goes_with_it(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "agent.sqlite")
    first = store.noise_seed(ROUND, secrets.token_bytes)
    assert store.noise_seed(ROUND, secrets.token_bytes) == first
    other = store.noise_seed(OTHER, secrets.token_bytes)
    assert other != first
    assert store.noise_seed(ROUND, secrets.token_bytes) != first
    store.forget_noise()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert first not in content
    assert other not in content


@pytest.mark.clause("2.9.4")
def test_rounds_chunks_and_seeds_have_noise_of_their_own() -> None:
    noises = [noise_of(b"a" * 32), noise_of(b"b" * 32), noise_of(b"a" * 32, OTHER), noise_of(b"a" * 32, index=1)]
    assert all(left != right for at, left in enumerate(noises) for right in noises[:at])


@pytest.mark.clause("2.9.4")
def test_a_silo_that_counts_on_nobody_adds_all_shares() -> None:
    chunk = Chunk(0, Section("energies", 20_000, 64), 0, 20_000)
    values = NoisyRelease(Zeros(), Noise(b"a" * 32, ROUND, 4)).lanes(chunk).view(np.int64) / 2**20
    assert 3.8 < float((values**2).mean()) < 4.2
