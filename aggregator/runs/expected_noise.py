"""How much of the silos' text noise would leave, told before anybody runs: from public numbers alone."""

from collections import Counter
from dataclasses import dataclass
from math import sqrt
from typing import Final

from aggregator.runs.longest_clip import longest_clip
from crypto.plan import Plan, oriented
from crypto.privacy.noise_shares import SHARE_BITS

REAL_LENGTH: Final = 1.6
"""How long a unit's energies are, by the root of their number: 1.4 to 1.9 in the demo's domains, 1 in public text."""

REAL_SPREAD: Final = 0.3
"""How far energies of real text are from those of public text, relatively: 0.1 to 0.6 in the demo's domains."""

LITTLE: Final = 0.1
"""Of what real text has beyond public text: where less than that is left, sharing nothing gives as good a model."""

EPSILONS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class ExpectedNoise:
    """What noise does to a usual feature of the block that has most, where every silo has as many records as named."""

    epsilon: float
    records: int
    relative: float
    """The noise's standard deviation over the feature's energy."""

    @property
    def left(self) -> float:
        """How much of what real text has beyond public text is left once energies are drawn towards public ones."""
        return REAL_SPREAD**2 / (REAL_SPREAD**2 + self.relative**2)

    @property
    def is_futile(self) -> bool:
        """Whether sharing nothing would give as good a model."""
        return self.left < LITTLE


def expected_noise(plan: Plan, records: int, epsilon: float | None = None) -> ExpectedNoise:
    """Return what to expect of a plan with noise, or of the same plan with another epsilon. Raises PlanError."""
    promise, clip = plan.message.pruning, plan.pruning.clip
    if epsilon is not None:
        clip = longest_clip(plan, epsilon, promise.delta)
    features = Counter[int]()
    for tensor in plan.prunable:
        features[tensor.block] += 0 if tensor.shares_input_of else oriented(tensor)[1]
    silos = len(plan.silos)
    noise = sqrt(silos) * 2**SHARE_BITS
    usual = clip / (REAL_LENGTH * sqrt(max(features.values())))
    return ExpectedNoise(promise.epsilon if epsilon is None else epsilon, records, noise / (usual * silos * records))
