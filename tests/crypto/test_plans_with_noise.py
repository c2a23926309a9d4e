"""Plans that promise differential privacy: what they have to have for it, and what they may not ask."""

import math
from statistics import NormalDist
from typing import Any

import pytest

from crypto.errors import PlanError
from crypto.names import Backend, ReleaseKind
from crypto.plan_rules import checked_plan
from crypto.privacy.accountant import combined_multiplier, epsilon
from crypto.privacy.events import GaussianEvent
from crypto.privacy.noise_shares import SHARE_BITS, noise_shares
from crypto.releases.release_spec import events_of, layout_of
from crypto.releases.votes import vote_event, votes_in_words
from sparsilo.v1 import plan_pb2
from support.plans import plan_message
from support.pooled_plans import small

NOISE: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-6, "clip": 1 << 18}


def noisy(kind: ReleaseKind = ReleaseKind.ENERGIES, **options: Any) -> plan_pb2.Plan:
    return small(kind, **{**NOISE, **options})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"clip": 0}, "epsilon: is promised, and the plan has no noise"),
        ({"clip": 0, "epsilon": 0.0}, "epsilon: is promised, and the plan has no noise"),
        ({"epsilon": 0.0}, "epsilon: 0.0 is not above 0"),
        ({"epsilon": -1.0}, "epsilon: -1.0 is not above 0"),
        ({"epsilon": math.inf}, "epsilon: inf is not above 0"),
        ({"epsilon": math.nan}, "epsilon: nan is not above 0"),
        ({"delta": 0.0}, "delta: 0.0 is not between 0 and 1"),
        ({"delta": 1.0}, "delta: 1.0 is not between 0 and 1"),
        ({"clip": (1 << 31) + 1}, "clip: 2147483649 is above 2147483648"),
        ({"clip": 1 << 31, "samples": 1 << 30}, "clip: 2147483648 is too long for the sum"),
    ],
)
def test_a_promise_and_its_noise_belong_together(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        checked_plan(noisy(**options))


def test_a_plan_with_noise_needs_a_backend_that_hides_words() -> None:
    message = noisy()
    message.backend = Backend.INSECURE_PLAINTEXT
    with pytest.raises(PlanError, match="shows each silo's values with no more than its own noise"):
        checked_plan(message)


def test_no_round_without_noise_is_among_those_with_it() -> None:
    """An evaluation in the same plan would tell of a person what the promise says that nothing tells."""
    message = noisy()
    spec = message.rounds.add().evaluation
    spec.sequences = 16
    spec.candidates.add(name="dense", dense=True)
    with pytest.raises(PlanError, match="evaluation has no noise, so no epsilon is kept"):
        checked_plan(message)


def test_products_have_no_bound_that_noise_could_be_for() -> None:
    with pytest.raises(PlanError, match="gram has no noise"):
        checked_plan(noisy(ReleaseKind.GRAM))


def test_every_feature_has_a_scale() -> None:
    message = noisy()
    message.model[0].scale_exponents = b"\xf0"
    with pytest.raises(PlanError, match=r"scale_exponents: are not 10"):
        checked_plan(message)


@pytest.mark.clause("2.9.3", "2.9.6")
@pytest.mark.parametrize("schedule", ["", "iterative"])
def test_what_a_plan_spends_follows_from_its_clip_and_its_blocks(schedule: str) -> None:
    """A release for each block, all at once or one after the other, and nothing is counted beside the energies."""
    plan = checked_plan(noisy(schedule=schedule))
    events = events_of(plan)
    assert all(isinstance(event, GaussianEvent) for event in events)
    due = math.sqrt(noise_shares(plan) * 4**SHARE_BITS) / NOISE["clip"] / math.sqrt(2)
    assert combined_multiplier(events) == pytest.approx(due, rel=1e-9)
    for index in range(len(plan.message.rounds)):
        sections = layout_of(plan, index).sections
        assert {(section.name.split()[0], section.width) for section in sections} == {("energies", 64)}


def test_without_a_clip_a_plan_spends_everything() -> None:
    assert combined_multiplier(events_of(checked_plan(small(ReleaseKind.ENERGIES)))) == 0


# Noise on keep counts


def noisy_votes(**options: Any) -> plan_pb2.Plan:
    message = plan_message(5)
    for field, value in {"epsilon": 1e4, "delta": 1e-6, "vote_units": 16, **options}.items():
        setattr(message.pruning, field, value)
    return message


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"clip": 1 << 18}, "vote_units: are of keep counts, and clip of energies"),
        ({"vote_units": (1 << 16) + 1}, "vote_units: 65537 is above 65536"),
        ({"weight_scaling": True}, "weight_scaling: multiplies by shares of silos"),
        ({"cohort_floor": 3}, "cohort_floor: draws few silos for a block"),
        ({"allocation": "owl"}, "rounds"),
        ({"epsilon": 0.0}, "epsilon: 0.0 is not above 0"),
    ],
)
def test_noise_on_keep_counts_is_for_plain_votes_alone(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        checked_plan(noisy_votes(**options))


@pytest.mark.clause("2.9.9")
def test_a_unit_may_change_every_vote_and_a_vote_is_one_of_them() -> None:
    """By the analytic Gaussian, calculated here by itself: 120 votes of 16 units under two shares of 16 units."""
    plan = checked_plan(noisy_votes(delta=1e-5))
    ((event,),) = [events_of(plan)]
    assert isinstance(event, GaussianEvent)
    of_vote = math.sqrt(2 * 256 - 16) / 16
    assert noise_shares(plan) == plan.message.least_survivors - 1 == 2
    assert event.noise_multiplier == pytest.approx(of_vote / math.sqrt(120))
    assert vote_event(plan, 1).noise_multiplier == pytest.approx(of_vote)
    kept = epsilon([vote_event(plan, 1)], 1e-5)
    normal = NormalDist()
    delta = normal.cdf(0.5 / of_vote - kept * of_vote) - math.exp(kept) * normal.cdf(-0.5 / of_vote - kept * of_vote)
    assert delta == pytest.approx(1e-5, rel=0.01)
    assert f"epsilon is {kept:.3g} for one vote of a silo" in votes_in_words(plan)
