"""The `weights` kind (FedSpaLLM, arXiv 2410.14852): votes, and how each kept weight differs from the dense one."""

from collections.abc import Iterator, Sequence
from typing import Final

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Section
from crypto.errors import PlanError
from crypto.names import Pruner, ReleaseKind
from crypto.plan import Plan
from crypto.pruning.pruners import PRUNERS
from crypto.releases.votes import VotesSpec, counted_weights, vote_sections

DELTA_BITS: Final = 16
"""A difference is a multiple of 2^(e - 16), where 2^e is no less than any silo's largest difference of the tensor."""


def deltas_section(tensor: str) -> str:
    """Name the section that holds by how much a tensor's kept weights differ from the dense ones."""
    return f"deltas {tensor}"


class WeightsSpec(VotesSpec):
    """What votes are, with a signed fixed-point number a weight, whose scale the round before has fixed."""

    kind = ReleaseKind.WEIGHTS
    usual_pruner = Pruner.SPARSEGPT
    noise_field = ""  # differences are far below the largest of a tensor, and noise would be as large as that
    preceded_by = (ReleaseKind.SCALES,)
    opens = (
        "for every weight how many silos keep it and the sum of their differences from the dense weight, and for every "
        "comparison group how many weights they keep in all"
    )
    not_protected = (
        *VotesSpec.not_protected,
        "Where one silo alone kept a weight, its difference is in the sum as it is, though not whose it is.",
    )
    seen = "how many kept each weight, and by how much together they changed it"
    unseen = "text, scores or keep mask. Where one silo alone kept a weight, that sum is its value"

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield for each tensor its votes, its nonzero counts, then its differences."""
        for tensor in plan.tensors(index):
            votes, nonzero = vote_sections(plan, tensor, silos)
            yield from (votes, nonzero)
            yield Section(deltas_section(tensor.name), votes.lanes, lane_width(silos << DELTA_BITS + 1))

    def check(self, plan: Plan, index: int) -> None:
        """Refuse a pruner that leaves kept weights alone."""
        del index
        pruner = plan.pruning.pruner
        if not PRUNERS[pruner].updates_weights:
            raise PlanError(
                f"plan: rounds: sum weights, and {pruner} leaves kept weights as they are: their average is the dense "
                "weight. Votes are enough"
            )

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Count the weights."""
        return (
            f"the keep masks of {counted_weights(plan, rounds):,} weights, one bit each, by how much each kept weight "
            "differs from the dense one, and how many it keeps a comparison group"
        )


SPEC = WeightsSpec()
