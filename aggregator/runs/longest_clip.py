"""How long a unit's contribution may be, in a plan that is to keep an epsilon."""

from math import floor

from crypto.errors import PlanError
from crypto.plan import Plan
from crypto.privacy.accountant import combined_multiplier, least_multiplier
from crypto.privacy.clipping import MOST_CLIP
from crypto.releases.release_spec import events_of


def longest_clip(plan: Plan, epsilon: float, delta: float) -> int:
    """Return the longest clip with which all rounds of a plan keep a promise; the plan has some clip.

    Raises PlanError where there is none.
    """
    of_one_unit = combined_multiplier(events_of(plan)) * plan.pruning.clip
    longest = floor(of_one_unit / least_multiplier(epsilon, delta))
    if not longest:
        raise PlanError(f"plan: epsilon: {epsilon:g} is so small that nothing but noise would be left")
    exact = ((1 << 62) - 1) // (len(plan.silos) * plan.message.pruning.samples)
    return min(longest, MOST_CLIP, exact)
