"""The `votes` kind: keep masks as lanes, and for every prunable tensor the nonzero counts per comparison group."""

from collections.abc import Iterator, Sequence
from math import prod, sqrt
from typing import ClassVar, Final

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Section
from crypto.names import Allocation, Pruner, ReleaseKind, Schedule
from crypto.plan import Plan, oriented
from crypto.privacy.accountant import epsilon
from crypto.privacy.events import GaussianEvent, PrivacyEvent
from crypto.privacy.noise_shares import VOTE_BITS, noise_multiplier, noise_shares, reach
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import group_shape
from crypto.releases.release_spec import ReleaseSpec, calibration_in_words
from sparsilo.v1 import plan_pb2

SPREAD_IN_WORDS: Final = {
    Allocation.UNIFORM: "",
    Allocation.OWL: ", less where a block has many outliers",
    Allocation.ALPHA: ", less where a block's weights look better trained",
}


def votes_section(tensor: str) -> str:
    """Name the section that holds a tensor's keep mask."""
    return f"votes {tensor}"


def nonzero_section(tensor: str) -> str:
    """Name the section that holds a tensor's nonzero counts, one a comparison group."""
    return f"nonzero counts {tensor}"


class VotesSpec(ReleaseSpec):
    """Lanes are single votes: each sum is how many silos keep a weight."""

    kind = ReleaseKind.VOTES
    says = "keep masks"
    prunes = True
    usual_pruner = Pruner.WANDA
    noise_field = "vote_units"
    opens = "for every weight how many silos keep it, and for every comparison group how many weights they keep in all"
    not_protected: ClassVar[tuple[str, ...]] = (
        "Where all survivors agree on a weight, its count tells each one's choice. With few silos that is so for most "
        "weights.",
    )
    seen = "how many kept each weight"
    unseen = "text, scores or keep mask"

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield for each tensor its votes, then its nonzero counts.

        With noise there are no nonzero counts: what they are follows from the plan, and they would have none.
        """
        for tensor in plan.tensors(index):
            votes, nonzero = vote_sections(plan, tensor, silos)
            if units := plan.pruning.vote_units:
                yield Section(votes.name, votes.lanes, lane_width(silos * (units + 2 * reach(plan))))
            else:
                yield from (votes, nonzero)

    def events(self, plan: Plan, index: int) -> tuple[PrivacyEvent, ...]:
        """Return one Gaussian release where the plan has noise: a unit of text may change every vote of its silo."""
        if not plan.pruning.vote_units:
            return super().events(plan, index)
        return (vote_event(plan, counted_weights(plan, [index])),)

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield how the silo prunes."""
        del index
        yield from pruning_in_words(plan, silo)

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Count the weights."""
        weights = counted_weights(plan, rounds)
        if plan.pruning.vote_units:
            return f"the keep masks of {weights:,} weights, one bit each, with this silo's share of the noise added"
        return f"the keep masks of {weights:,} weights, one bit each, and how many it keeps a comparison group"


def vote_sections(plan: Plan, tensor: plan_pb2.Tensor, silos: int) -> Iterator[Section]:
    """Yield the two sections of one tensor's keep masks."""
    groups, size = group_shape(oriented(tensor), plan.pruning.comparison_group)
    yield Section(votes_section(tensor.name), groups * size, lane_width(silos))
    yield Section(nonzero_section(tensor.name), groups, lane_width(silos * size))


def vote_event(plan: Plan, votes: int) -> GaussianEvent:
    """Return what noise on keep counts makes of so many votes of one silo: each may be one more, or one less."""
    units = plan.pruning.vote_units * sqrt(votes)
    return GaussianEvent(noise_multiplier(units, noise_shares(plan), VOTE_BITS))


def votes_in_words(plan: Plan) -> str:
    """Say what noise on keep counts keeps: of one vote, and of all votes on a usual row of weights."""
    rows = sorted(oriented(tensor)[1] for tensor in plan.prunable)
    delta, row = plan.message.pruning.delta, rows[len(rows) // 2]
    of_vote, of_row = (epsilon([vote_event(plan, votes)], delta) for votes in (1, row))
    return f"at delta {delta:g} epsilon is {of_vote:.3g} for one vote of a silo, {of_row:.3g} for its {row} on a row"


def pruning_in_words(plan: Plan, silo: str) -> Iterator[str]:
    """Yield how a silo prunes in a plan."""
    work, member = plan.pruning, plan.message.roster[plan.silos.index(silo)]
    ratio = member.sparsity_ratio or work.message.sparsity_ratio
    target = f"the pattern {work.message.pattern}" if work.message.pattern else f"a sparsity ratio of {ratio}"
    spread = SPREAD_IN_WORDS[work.allocation]
    reads = f"on {calibration_in_words(plan)}" if PRUNERS[work.pruner].reads_text else "without looking at text"
    yield f"{work.pruner} prunes the model to {target}{spread}, {reads}"
    if work.schedule is Schedule.ITERATIVE:
        yield "block after block, each from what all silos together made of those before it"
    if work.cohort_floor:
        yield f"only in {member.capacity} of {len(plan.block_weights)} blocks, which are drawn at random"


def counted_weights(plan: Plan, rounds: Sequence[int]) -> int:
    """Count the weights that rounds are about, as often as they are."""
    return sum(prod(tensor.shape) for index in rounds for tensor in plan.tensors(index))


SPEC = VotesSpec()
