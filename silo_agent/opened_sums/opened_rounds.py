"""What a round starts from: the opened sums of the rounds before it in its plan, and what follows from them.

Both roles derive it from the same words, so nothing of it is anybody's say-so: which silos a block is sampled for, each
block's sparsity ratio, the scales of fixed point, and with the iterative schedule the globally pruned blocks.
"""

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256

from crypto.names import Allocation, ReleaseKind
from crypto.plan import Plan
from crypto.pruning.layer_sampling import draw
from crypto.pruning.owl import owl_ratios
from crypto.pruning.sparsity import Pattern, Sparsity
from crypto.releases.release_spec import has_input, spec_of
from crypto.secagg.round import Round
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.releases import outliers, sampling, scales
from silo_agent.releases.silo_side import Solving


class Start:
    """What the next round of `plan` starts from, after `opened`."""

    def __init__(self, plan: Plan, opened: Sequence[OpenedRound] = (), solving: Solving | None = None) -> None:
        self.plan = plan
        self.opened = tuple(opened)
        self._solving = solving

    @property
    def index(self) -> int:
        """The index of the next round."""
        return len(self.opened)

    @property
    def round(self) -> Round:
        """The next round, as an honest aggregator offers it."""
        return Round(self.plan, self.index, self.input_digest, self.cohort(self.index))

    @property
    def input_digest(self) -> bytes:
        """SHA-256 over the last round's digest, which covers its own input, and the root of its sum (2.2.3)."""
        if not has_input(self.plan, self.index):
            return b""
        last = self.opened[-1]
        return sha256(b"sparsilo/1 input" + last.round.digest + last.sum_root).digest()

    def cohort(self, index: int) -> tuple[str, ...]:
        """Return the silos drawn for a round; none where it is for the whole roster (2.6.1)."""
        block = self.plan.block(index)
        return self._cohorts[block] if self.plan.is_sampled(index) and block is not None else ()

    def is_sampled_for(self, silo: str, block: int) -> bool:
        """Tell whether the silo prunes and uploads the block."""
        return not self.plan.pruning.cohort_floor or silo in self._cohorts[block]

    def sparsity(self, block: int) -> Sparsity:
        """Return what mask expansion zeroes in a block."""
        return self._allocated(self.plan.pruning.sparsity, block)

    def silo_sparsity(self, silo: str, block: int) -> Sparsity:
        """Return what a silo's own keep masks zero in a block."""
        return self._allocated(self.plan.pruning.silo_sparsity(silo), block)

    def exponents(self, block: int | None) -> dict[str, int]:
        """Return by tensor of a scope the least e for which no silo's largest difference is above 2^e.

        Raises CorruptSum where not every survivor named one.
        """
        return scales.exponents_of(self._of(ReleaseKind.SCALES, block))

    @property
    def solving(self) -> Solving:
        """What weights are pruned by opened sums with."""
        if self._solving is None:
            raise RuntimeError("nobody prunes by what follows from here")
        return self._solving

    @cached_property
    def _cohorts(self) -> tuple[tuple[str, ...], ...]:
        coin = sampling.coin_of(self._of(ReleaseKind.SAMPLING, None))
        work = self.plan.pruning
        return draw(coin, work.capacities, len(self.plan.block_weights), work.cohort_floor)

    @cached_property
    def _outliers(self) -> Sequence[int]:
        if spec_of(self.plan, 0).pools:  # with OWL of the dense model, whatever the schedule
            return self.solving.outliers(self.opened[0])
        return outliers.counts_of(self._of(ReleaseKind.OUTLIERS, None))

    def _allocated(self, sparsity: Sparsity, block: int) -> Sparsity:
        work = self.plan.pruning
        if isinstance(sparsity.target, Pattern) or work.allocation is Allocation.UNIFORM:
            return sparsity
        if work.allocation is Allocation.ALPHA:
            return Sparsity(work.alpha_ratios(sparsity.target)[block], sparsity.group)
        ratios = owl_ratios(self._outliers, self.plan.block_weights, sparsity.target)
        return Sparsity(ratios[block], sparsity.group)

    def _of(self, kind: ReleaseKind, block: int | None) -> OpenedRound:
        due = kind, block
        indices = [opened.round.index for opened in self.opened]
        scopes = [(self.plan.release_kind(index), self.plan.block(index)) for index in indices]
        return self.opened[scopes.index(due)]
