"""The `scales` kind: how large each tensor's differences are, which fixes the fixed point of a `weights` round."""

from collections.abc import Iterator, Sequence
from typing import Final

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Section
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.release_spec import ReleaseSpec
from crypto.releases.votes import pruning_in_words

EXPONENTS: Final = range(-96, 32)
"""What e can be, where 2^e bounds a difference; one lane of a section each."""


def scale_section(tensor: str) -> str:
    """Name the section that holds how large a tensor's differences are."""
    return f"scale {tensor}"


class ScalesSpec(ReleaseSpec):
    """Lanes are the exponents of two, of which a silo names one a tensor."""

    kind = ReleaseKind.SCALES
    says = "scales"
    opens = "for every weight matrix how many silos' largest difference lies in which power of two"

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield one section a tensor."""
        for tensor in plan.tensors(index):
            yield Section(scale_section(tensor.name), len(EXPONENTS), lane_width(silos))

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield how the silo prunes."""
        del index
        yield from pruning_in_words(plan, silo)

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Count the matrices."""
        matrices = sum(1 for index in rounds for _ in plan.tensors(index))
        return f"for each of {matrices:,} weight matrices the power of two of its largest difference"


SPEC = ScalesSpec()
