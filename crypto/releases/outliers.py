"""The `outliers` kind: how many weights of each block stand out (OWL); the blocks' sparsity ratios follow from it."""

from collections.abc import Iterator, Sequence
from typing import Final

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Section
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.release_spec import ReleaseSpec, calibration_in_words

OUTLIERS_SECTION: Final = "outliers"


class OutliersSpec(ReleaseSpec):
    """Lanes are counts, one a block."""

    kind = ReleaseKind.OUTLIERS
    says = "outliers"
    opens = "for every block the silos' outlying weights, added up"

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield the one section."""
        del index
        yield Section(OUTLIERS_SECTION, len(plan.block_weights), lane_width(silos * max(plan.block_weights)))

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield what is counted."""
        del index, silo
        yield f"how many weights of each block stand out on {calibration_in_words(plan)}"

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Count the blocks."""
        del rounds
        return f"for each of {len(plan.block_weights):,} blocks how many weights stand out on its text"


SPEC = OutliersSpec()
