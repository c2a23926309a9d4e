"""The `outliers` kind: how many weights of each block stand out (OWL); the blocks' sparsity ratios follow from it."""

from collections.abc import Iterator, Sequence
from typing import Final

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Section
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.releases.release_spec import ReleaseSpec, calibration_in_words
from sparsilo.v1 import plan_pb2

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

    def ask(self, plan: Plan, index: int, asked: plan_pb2.Plan) -> None:
        """Ask for the round alone: outliers are counted in the dense model, however it is pruned afterwards."""
        asked.rounds.add().CopyFrom(plan.message.rounds[index])

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield what is counted."""
        del index, silo
        yield f"how many weights of each block stand out on {calibration_in_words(plan)}"

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Count the blocks."""
        del rounds
        return f"for each of {len(plan.block_weights):,} blocks how many weights stand out on its text"


SPEC = OutliersSpec()
