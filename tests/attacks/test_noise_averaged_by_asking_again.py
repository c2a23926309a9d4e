"""Attack: the aggregator asks for the same sums again and again, and averages what it opens: noise falls, values stay.

A silo's noise is drawn anew for each round, as it must be: the same noise twice would cancel in a difference. So the
average does tell more. It tells what the ledger says that it does, and no other combination of the answers tells more.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from crypto.encoding.layout import Chunk, Section
from crypto.names import ReleaseKind
from crypto.plan_rules import checked_plan
from crypto.privacy.accountant import combined_multiplier, epsilon
from crypto.privacy.noise_shares import SHARE_BITS, noise_shares
from crypto.releases.release_spec import events_of
from silo_agent.releases.noise import Noise, NoisyRelease
from support.pooled_plans import small

LANES, DELTA = 4000, 1e-6


class Values:
    def lanes(self, chunk: Chunk) -> NDArray[np.uint64]:
        return np.full(chunk.lanes, 12_345, np.uint64)


def opened(round_number: int, silos: int) -> NDArray[np.float64]:
    """A sum over silos, each with a seed of its own for the round."""
    chunk = Chunk(0, Section("energies", LANES, 64), 0, LANES)
    shares = [
        NoisyRelease(Values(), Noise(bytes([silo, round_number]) * 16, bytes([round_number]) * 32, 1)).lanes(chunk)
        for silo in range(silos)
    ]
    total: NDArray[np.uint64] = np.sum(shares, axis=0, dtype=np.uint64)
    return total.view(np.int64).astype(np.float64)


@pytest.mark.parametrize("asked", [1, 4, 16])
def test_what_an_average_tells_is_what_was_charged(asked: int) -> None:
    plan = checked_plan(small(ReleaseKind.ENERGIES, epsilon=2.0, delta=DELTA, clip=1 << 20, schedule=""))
    silos = noise_shares(plan)
    average = np.mean([opened(number, silos) for number in range(asked)], axis=0)
    deviation = float((average - silos * 12_345).std())
    charged = combined_multiplier(events_of(plan) * asked)
    blocks = len(plan.block_weights)
    assert deviation / plan.pruning.clip / math.sqrt(blocks) == pytest.approx(charged, rel=0.05)
    assert epsilon(events_of(plan) * 16, DELTA) > 2.5 * epsilon(events_of(plan), DELTA)


def test_differences_of_answers_tell_of_noise_alone() -> None:
    first, second = (opened(number, 3) for number in (1, 2))
    assert float((first - second).std()) == pytest.approx(math.sqrt(6) * 2**SHARE_BITS, rel=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.07
