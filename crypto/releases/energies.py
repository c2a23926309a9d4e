"""The `energies` kind: how strong each input feature of the prunable tensors is on the silos' text, added up.

What Wanda and RIA read of a text is this sum, so pruning by the sum of all silos is pruning by all their text in one
place. Pruners that need products of two features get those from text that the model writes (docs/adr/0041).
"""

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.lanes import lane_width
from crypto.encoding.layout import Section
from crypto.errors import PlanError
from crypto.names import Allocation, GramInputs, Pruner, ReleaseKind
from crypto.plan import Plan, oriented
from crypto.privacy.events import GaussianEvent, PrivacyEvent
from crypto.privacy.noise_shares import noise_multiplier, noise_shares
from crypto.pruning.attention import is_attentions
from crypto.pruning.pruners import PRUNERS
from crypto.releases.planned_rounds import release_of
from crypto.releases.release_spec import ReleaseSpec, calibration_in_words
from sparsilo.v1 import plan_pb2

CLIPPED_SECTION: Final = "clipped"
ENERGY_WIDTH: Final = 64

CLIP_FACTOR: Final = 1.2
"""Relative to a unit whose energies are those of public text: real text is more uneven, and so mostly is clipped."""

OF_PRODUCTS: Final = (ReleaseKind.GRAM, ReleaseKind.DENSE_TARGET)
"""The releases that sum products of two input features."""


def energies_section(tensor: str) -> str:
    """Name the section that holds the energies of a tensor's input."""
    return f"energies {tensor}"


def most_a_silo(width: int, silos: int) -> int:
    """Return the largest power of two of which `silos` fit into a lane of `width` bits together."""
    return 1 << width - silos.bit_length()


def exponents_of(tensor: plan_pb2.Tensor) -> NDArray[np.int64]:
    """Return the exponents of two that a plan has of a tensor's input, one for all its features or one each."""
    return np.frombuffer(tensor.scale_exponents, np.int8).astype(np.int64)


def clip_radius(features: int) -> float:
    """Return the length at which the energies of a unit are clipped: `features` numbers over a block's inputs, each
    divided by what a sequence of the model's own text has there.
    """
    return CLIP_FACTOR * sqrt(features)


def own_inputs(plan: Plan, index: int) -> list[plan_pb2.Tensor]:
    """Return the tensors of a round whose inputs have sections; every other tensor shares the input of one of them."""
    return [tensor for tensor in plan.tensors(index) if not tensor.shares_input_of]


def has_products(plan: Plan, tensor: plan_pb2.Tensor) -> bool:
    """Tell whether the plan's pruning sums products of a tensor's input features: each has an exponent of its own.

    `tensor` has a section of its own. That the plan has so many exponents of the right inputs, its rules check.
    """
    return release_of(plan) in OF_PRODUCTS and len(tensor.scale_exponents) == oriented(tensor)[1]


def with_products(plan: Plan, index: int) -> frozenset[str]:
    """Return the tensors of a round whose inputs have sections, and products that the plan's pruning sums (2.4.17)."""
    if release_of(plan) not in OF_PRODUCTS:
        return frozenset()
    every = plan.pruning.gram_inputs is GramInputs.ALL
    return frozenset(
        tensor.shares_input_of or tensor.name for tensor in plan.tensors(index) if every or is_attentions(tensor.name)
    )


class EnergiesSpec(ReleaseSpec):
    """Lanes are fixed-point numbers at the plan's public scales, and counts of what did not fit."""

    kind = ReleaseKind.ENERGIES
    says = "input statistics"
    prunes = True
    usual_pruner = Pruner.ADMM
    pools = True
    noise_field = "clip"
    opens = "for every input feature of the weight matrices the sum of squares over all silos' text"
    not_protected: ClassVar[tuple[str, ...]] = (
        "The sums of the first block's inputs are sums over the words of all silos' text: which words are frequent in "
        "it can be estimated from them.",
    )
    seen = "how strong each input feature is on all their text"
    unseen = "text, statistics or keep mask"

    def sections(self, plan: Plan, index: int, silos: int) -> Iterator[Section]:
        """Yield the counts of what was clipped, a section each, then the sections that have the statistics.

        With noise nothing is counted, for no noise would be on that.
        """
        statistics = [section for tensor in own_inputs(plan, index) for section in self.statistics(plan, tensor)]
        if not plan.pruning.clip:
            most = max(section.lanes for section in statistics)
            yield Section(CLIPPED_SECTION, len(statistics), lane_width(silos * most))
        yield from statistics

    def statistics(self, plan: Plan, tensor: plan_pb2.Tensor) -> Iterator[Section]:
        """Yield the sections of what is said of one input."""
        del plan
        yield Section(energies_section(tensor.name), oriented(tensor)[1], ENERGY_WIDTH)

    def what(self, plan: Plan) -> str:
        """Return in words what rounds of this kind sum over a text."""
        del plan
        return "the sum of squares of each input feature of the weight matrices"

    def check(self, plan: Plan, index: int) -> None:
        """Refuse options that say how a silo prunes by itself, and inputs that the plan does not describe."""
        work, members = plan.pruning, plan.message.roster
        problems = {
            f"{work.pruner} reads no text": not PRUNERS[work.pruner].reads_text,
            "silos have sparsity ratios of their own": any(member.sparsity_ratio for member in members),
            "weights are scaled by votes": work.message.weight_scaling,
            "blocks are sampled": bool(work.cohort_floor),
        }
        for problem, is_so in problems.items():
            if is_so:
                raise PlanError(f"plan: rounds[{index}]: pools {self.kind}, and {problem}: release votes for that")
        described = {tensor.name: tensor for tensor in own_inputs(plan, index)}
        of_products = with_products(plan, index)
        for tensor in plan.tensors(index):
            field, features = f"plan: model {tensor.name}", oriented(tensor)[1]
            if tensor.shares_input_of:
                other = described.get(tensor.shares_input_of)
                if other is None or (other.block, oriented(other)[1]) != (tensor.block, features):
                    raise PlanError(f"{field}: shares_input_of: {tensor.shares_input_of!r} has no such input")
                if tensor.scale_exponents:
                    raise PlanError(f"{field}: scale_exponents: are those of {tensor.shares_input_of}")
            elif len(tensor.scale_exponents) != (due := features if work.clip or tensor.name in of_products else 1):
                raise PlanError(f"{field}: scale_exponents: are not {due}")

    def events(self, plan: Plan, index: int) -> tuple[PrivacyEvent, ...]:
        """Return a Gaussian release for each block that the round is about, where the plan has noise."""
        clip = plan.pruning.clip
        if not (clip and self.noise_field):
            return super().events(plan, index)
        blocks = {tensor.block for tensor in own_inputs(plan, index)}
        return (GaussianEvent(noise_multiplier(clip, noise_shares(plan)), len(blocks)),)

    def computes(self, plan: Plan, index: int, silo: str) -> Iterator[str]:
        """Yield what is summed on how much text."""
        del silo
        spreads = plan.block(index) is None and plan.pruning.allocation is Allocation.OWL
        of, so = (" of the dense model", ": a block with many outliers loses less") if spreads else ("", "")
        yield f"{self.what(plan)}{of} on {calibration_in_words(plan)}{so}"
        if plan.block(index) is not None:
            yield "block after block, each from what all silos together made of those before it"

    def leaves(self, plan: Plan, rounds: Sequence[int]) -> str:
        """Say what is summed, and how many numbers that is."""
        inputs = [tensor for index in rounds for tensor in own_inputs(plan, index)]
        numbers = sum(section.lanes for tensor in inputs for section in self.statistics(plan, tensor))
        if plan.pruning.clip:
            return f"{self.what(plan)}, {numbers:,} numbers, with this silo's share of the noise added"
        return f"{self.what(plan)}, {numbers:,} numbers, and how many of them were too large for the plan's scales"


SPEC = EnergiesSpec()
