"""Pruning as the work of a plan: what is pruned, how, by whom and how far."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256

from crypto.names import BITS, Allocation, Bits, ComparisonGroup, GramInputs, Pruner, Schedule
from crypto.pruning.alpha_pruning import alpha_ratios
from crypto.pruning.block_ratios import MOST
from crypto.pruning.owl import SPREAD
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern, Sparsity, parse_ratio
from sparsilo.v1 import plan_pb2


@dataclass(frozen=True)
class PruningWork:
    """A plan's pruning, read from its message; `roster` says what of it is a silo's own."""

    message: plan_pb2.Pruning
    roster: Sequence[plan_pb2.Member]
    block_weights: tuple[int, ...]
    """Prunable weights of each block."""

    @property
    def pruner(self) -> Pruner:
        """How silos score weights."""
        return Pruner(self.message.pruner)

    @property
    def comparison_group(self) -> ComparisonGroup:
        """The groups of mask expansion."""
        return ComparisonGroup(self.message.comparison_group)

    @property
    def sparsity(self) -> Sparsity:
        """What mask expansion zeroes, where all blocks get the same share."""
        return Sparsity(self._target(self.message.sparsity_ratio), self.comparison_group)

    def silo_sparsity(self, silo: str) -> Sparsity:
        """Return what a silo's own keep masks zero: its own ratio or the plan's, in its pruner's own groups."""
        own_ratio = next(member.sparsity_ratio for member in self.roster if member.silo == silo)
        return Sparsity(self._target(own_ratio or self.message.sparsity_ratio), PRUNERS[self.pruner].own_group)

    def own_targets(self, silos: Sequence[str]) -> tuple[str, ...]:
        """Return what each of the silos prunes to, a ratio or a pattern; nothing where all prune to the same.

        With alpha a ratio is followed by what stands for the exponents, as other ones make other ratios of it.
        """
        exponents = f" {sha256(' '.join(self.message.block_alphas).encode()).hexdigest()}"
        spread = exponents if self.allocation is Allocation.ALPHA else ""
        targets = tuple(f"{self.silo_sparsity(silo).target}{spread}" for silo in silos)
        return targets if len({*targets}) > 1 else ()

    def ratio_range(self, silo: str) -> tuple[Decimal, Decimal]:
        """Return the least and the largest share of weights that a silo's own keep masks zero in any block.

        They differ with OWL, which moves a block's ratio by less than twice its spread, whatever the silos' text says;
        and with alpha, where they follow from the plan.
        """
        ratio = self.silo_sparsity(silo).ratio
        match self.allocation:
            case Allocation.UNIFORM:
                return ratio, ratio
            case Allocation.OWL:
                return max(ratio - 2 * SPREAD, Decimal(0)), min(ratio + 2 * SPREAD, MOST)
            case Allocation.ALPHA:
                ratios = self.alpha_ratios(ratio)
                return min(ratios), max(ratios)

    def alpha_ratios(self, ratio: Decimal) -> Sequence[Decimal]:
        """Return what AlphaPruning makes of a ratio in each block, by the exponents that the plan has."""
        return _alpha_ratios(tuple(self.message.block_alphas), self.block_weights, ratio)

    @property
    def allocation(self) -> Allocation:
        """How the ratio is spread over the blocks."""
        return Allocation(self.message.allocation or Allocation.UNIFORM)

    @property
    def schedule(self) -> Schedule:
        """How often silos and aggregator meet."""
        return Schedule(self.message.schedule or Schedule.ONE_SHOT)

    @property
    def gram_inputs(self) -> GramInputs:
        """Of which inputs `gram` rounds sum products."""
        return GramInputs(self.message.gram_inputs or GramInputs.ALL)

    @property
    def clip(self) -> int:
        """With noise, how long a unit's contribution is at most, in units of which a share has 2^20; 0 without."""
        return self.message.clip

    @property
    def vote_units(self) -> int:
        """With noise on keep counts, how many units a vote is worth, of which a share has 2^4; 0 without."""
        return self.message.vote_units

    @property
    def has_noise(self) -> bool:
        """Whether silos add noise, and the plan has a promise."""
        return bool(self.clip or self.vote_units)

    @property
    def quantise_bits(self) -> Bits | None:
        """Of how many bits the integers are that kept weights become; None: they stay as they are."""
        return next((bits for bits in BITS if bits == self.message.quantise_bits), None)

    @property
    def cohort_floor(self) -> int:
        """Fewest silos that layer sampling draws for a block; 0 without it."""
        return self.message.cohort_floor

    @property
    def capacities(self) -> dict[str, int]:
        """With layer sampling, of how many blocks each silo prunes; else empty."""
        return {member.silo: member.capacity for member in self.roster} if self.cohort_floor else {}

    def _target(self, ratio: str) -> Decimal | Pattern:
        pattern = self.message.pattern
        return Pattern.parse(pattern) if pattern else parse_ratio(ratio)


@lru_cache(maxsize=256)  # a plan is asked for the same again and again, and exact arithmetic over many blocks is slow
def _alpha_ratios(exponents: tuple[str, ...], sizes: tuple[int, ...], ratio: Decimal) -> tuple[Decimal, ...]:
    return tuple(alpha_ratios([Decimal(exponent) for exponent in exponents], sizes, ratio))
