"""What a plan's noise would leave of the silos' text, against its own formula written down another way."""

import math

import pytest

from aggregator.runs.expected_noise import EPSILONS, expected_noise
from crypto.errors import PlanError
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.plan_rules import checked_plan
from crypto.privacy.accountant import epsilon
from crypto.releases.release_spec import events_of
from support.pooled_plans import small

DELTA = 1e-6


def promising(clip: int) -> Plan:
    """A plan whose promise is exactly what its noise keeps."""
    message = small(ReleaseKind.ENERGIES, epsilon=1.0, delta=DELTA, clip=clip)
    message.pruning.epsilon = epsilon(events_of(checked_plan(message)), DELTA)
    return checked_plan(message)


@pytest.mark.parametrize("clip", [1 << 17, 1 << 20])
def test_the_same_epsilon_gives_the_same_noise(clip: int) -> None:
    plan = promising(clip)
    own, again = expected_noise(plan, 100), expected_noise(plan, 100, plan.message.pruning.epsilon)
    assert again.relative == pytest.approx(own.relative, rel=1e-4)
    usual = clip / 1.6 / math.sqrt(16)  # a block's inputs have 10 and 6 features
    assert own.relative == pytest.approx(2 * 2**20 / (usual * 4 * 100))


def test_more_records_and_a_larger_epsilon_leave_more() -> None:
    plan = promising(1 << 18)
    by_epsilon = [expected_noise(plan, 500, of).left for of in EPSILONS]
    assert by_epsilon == sorted(by_epsilon)
    assert expected_noise(plan, 1000).relative == pytest.approx(expected_noise(plan, 500).relative / 2)


def test_where_next_to_nothing_is_left_it_is_said() -> None:
    plan = promising(1 << 18)
    assert expected_noise(plan, 1, 0.5).is_futile
    assert not expected_noise(plan, 100_000, 16.0).is_futile


def test_an_epsilon_that_leaves_no_unit_is_refused() -> None:
    message = promising(1 << 18).message
    message.pruning.delta = 1e-12
    with pytest.raises(PlanError, match="nothing but noise would be left"):
        expected_noise(Plan(message, b""), 100, 1e-9)
