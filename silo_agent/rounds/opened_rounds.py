"""What a round starts from: the opened sums of the rounds before it in its plan, and what follows from them.

Both roles derive it from the same words, so nothing of it is anybody's say-so: which silos a block is sampled for, each
block's sparsity ratio, the scales of fixed point, and with the iterative schedule the globally pruned blocks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.encoding.fixed_point import decode_average
from crypto.errors import CorruptSum, UnexpectedMessage
from crypto.names import Allocation, ReleaseKind
from crypto.plan import Plan, oriented
from crypto.pruning.layer_sampling import draw
from crypto.pruning.owl import owl_ratios
from crypto.pruning.sparsity import Pattern, Sparsity, group_shape
from crypto.releases.release_spec import has_input
from crypto.releases.scales import EXPONENTS, scale_section
from crypto.releases.votes import nonzero_section, votes_section
from crypto.releases.weights import DELTA_BITS, deltas_section
from crypto.secagg.round import Round
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.pruning.keep_mask import as_groups
from silo_agent.pruning.mask_expansion import expand
from silo_agent.pruning.relative_importance import relative_importance
from silo_agent.rounds.opened_sum import OpenedChunk, OpenedRound
from sparsilo.v1 import plan_pb2

COIN: Final = b"sparsilo/1 sampling coin"


@dataclass(frozen=True)
class ExpandedTensor:
    """What a votes or weights round makes of one tensor, in the shape in which it is stored."""

    name: str
    keep_counts: Tensor
    """uint8: how many survivors kept each weight."""
    keep: Tensor
    """bool: the expanded keep mask."""
    weight: Tensor | None
    """The new weight in the stored dtype, zero where not kept; None where kept weights stay dense."""

    @property
    def changed(self) -> Tensor:
        """As BlockWalk.advance takes it."""
        return self.keep if self.weight is None else self.weight


class Start:
    """What the next round of `plan` starts from, after `opened`."""

    def __init__(self, plan: Plan, opened: Sequence[OpenedRound] = ()) -> None:
        self.plan = plan
        self.opened = tuple(opened)

    @property
    def index(self) -> int:
        """Of the next round."""
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
        """The silos drawn for a round; empty where it is for the whole roster (2.6.1)."""
        block = self.plan.block(index)
        return self._cohorts[block] if self.plan.is_sampled(index) and block is not None else ()

    def is_sampled_for(self, silo: str, block: int) -> bool:
        """Whether the silo prunes and uploads the block."""
        return not self.plan.pruning.cohort_floor or silo in self._cohorts[block]

    def sparsity(self, block: int) -> Sparsity:
        """What mask expansion zeroes in a block."""
        return self._allocated(self.plan.pruning.sparsity, block)

    def silo_sparsity(self, silo: str, block: int) -> Sparsity:
        """What a silo's own keep masks zero in a block."""
        return self._allocated(self.plan.pruning.silo_sparsity(silo), block)

    def exponents(self, block: int | None) -> dict[str, int]:
        """By tensor of a scope the least e for which no silo's largest difference from the dense weight is above 2^e.

        Raises CorruptSum where not every survivor named one.
        """
        opened = self._of(ReleaseKind.SCALES, block)
        exponents = {}
        for section, named in opened.small_sections().items():
            if named.sum() != opened.survivors:
                raise CorruptSum(f"section {section}: {named.sum()} exponents of {opened.survivors} survivors")
            exponents[section] = EXPONENTS[int(np.flatnonzero(named)[-1])]
        return {tensor.name: exponents[scale_section(tensor.name)] for tensor in self.plan.tensors(opened.round.index)}

    def globally_pruned(self, block: int, weights: DenseWeights) -> dict[str, Tensor]:
        """With the iterative schedule, by stored name, what an earlier round made of a block's tensors."""
        kinds = (ReleaseKind.VOTES, ReleaseKind.WEIGHTS)
        opened = next(each for each in self.opened if self._kind(each) in kinds and self._block(each) == block)
        return {tensor.name: tensor.changed for tensor in self.expanded(opened, weights)}

    def expanded(self, opened: OpenedRound, weights: DenseWeights) -> Iterator[ExpandedTensor]:
        """A votes or weights round tensor by tensor: keep counts, the expanded keep mask and new weights.

        Raises CorruptSum where a count exceeds the survivors, or a group's counts do not add up to its nonzero count.
        These checks detect faults; they are no security, since a silo that lies can lie consistently.
        """
        sections = opened.chunks()
        exponents = self.exponents(self._block(opened)) if self._kind(opened) is ReleaseKind.WEIGHTS else None
        for tensor in self.plan.tensors(opened.round.index):
            yield self._expanded(tensor, sections, opened.survivors, exponents, weights)

    def _expanded(
        self,
        tensor: plan_pb2.Tensor,
        sections: Iterator[OpenedChunk],
        survivors: int,
        exponents: dict[str, int] | None,
        weights: DenseWeights,
    ) -> ExpandedTensor:
        shape, dense, name = tuple(tensor.shape), weights.tensor(tensor.name), tensor.name
        lanes = int(np.prod(shape))
        counts = _collect(sections, votes_section(name), lanes, np.uint8, survivors).reshape(shape)
        groups, size = group_shape(oriented(tensor), self.plan.pruning.comparison_group)
        nonzero = _collect(sections, nonzero_section(name), groups, np.uint64, survivors * size)
        keep_counts = torch.from_numpy(counts)
        weight: Tensor | None = None
        if exponents is not None:
            sums = _collect(sections, deltas_section(name), lanes, np.uint64, survivors << DELTA_BITS + 1)
            average = decode_average(sums.reshape(shape), counts, exponents[name] - DELTA_BITS, DELTA_BITS)
            weight = dense.double() + torch.from_numpy(average)
        turned = [each.T if tensor.input_first else each for each in (keep_counts, dense if weight is None else weight)]
        _check_sums(name, as_groups(turned[0], self.plan.pruning.comparison_group), nonzero)
        importance = relative_importance(turned[0], survivors, turned[1])
        keep = expand(turned[0], importance, self.sparsity(tensor.block))
        keep = (keep.T if tensor.input_first else keep).contiguous()
        if self.plan.message.pruning.weight_scaling:
            weight = (dense if weight is None else weight).double() * (keep_counts.double() / survivors)
        if weight is not None:
            weight = weight.to(dense.dtype).masked_fill_(~keep, 0)
        return ExpandedTensor(name, keep_counts, keep, weight)

    @cached_property
    def _cohorts(self) -> tuple[tuple[str, ...], ...]:
        words = self._of(ReleaseKind.SAMPLING, None).small_sections()
        coin = sha256(COIN + b"".join(lanes.astype("<u8").tobytes() for lanes in words.values())).digest()
        plan = self.plan
        return draw(coin, plan.pruning.capacities, len(plan.block_weights), plan.pruning.cohort_floor)

    @cached_property
    def _outliers(self) -> list[int]:
        (counts,) = self._of(ReleaseKind.OUTLIERS, None).small_sections().values()
        return [int(count) for count in counts]

    def _allocated(self, sparsity: Sparsity, block: int) -> Sparsity:
        if isinstance(sparsity.target, Pattern) or self.plan.pruning.allocation is Allocation.UNIFORM:
            return sparsity
        ratios = owl_ratios(self._outliers, self.plan.block_weights, sparsity.target)
        return Sparsity(ratios[block], sparsity.group)

    def _of(self, kind: ReleaseKind, block: int | None) -> OpenedRound:
        return next(each for each in self.opened if self._kind(each) is kind and self._block(each) == block)

    def _kind(self, opened: OpenedRound) -> ReleaseKind:
        return self.plan.release_kind(opened.round.index)

    def _block(self, opened: OpenedRound) -> int | None:
        return self.plan.block(opened.round.index)


def _check_sums(name: str, counts: Tensor, nonzero: NDArray[np.uint64]) -> None:
    sums = counts.sum(1, dtype=torch.int64).numpy()
    if not np.array_equal(sums, nonzero):
        at = int(np.flatnonzero(sums != nonzero)[0])
        raise CorruptSum(f"{name}: group {at} has {sums[at]} kept by count and {nonzero[at]} by nonzero count")


def _collect(chunks: Iterator[OpenedChunk], section: str, lanes: int, dtype: Any, most: int) -> NDArray[Any]:
    """All lanes of the section that comes next. Raises CorruptSum where one is above `most`."""
    values = np.empty(lanes, dtype)
    filled = 0
    while filled < lanes:
        chunk, opened = next(chunks)
        if chunk.section.name != section:
            raise RuntimeError(f"section {chunk.section.name} where {section} is due")
        if opened.max() > most:
            raise CorruptSum(f"section {section}: a sum is {opened.max()}, above {most}")
        values[chunk.start : chunk.start + chunk.lanes] = opened
        filled += chunk.lanes
    return values


def check_start(round_: Round, start: Start, silo: str) -> None:
    """Check that an offered round starts from what was opened before it, with the cohort that follows (2.2.3, 2.6).

    Raises UnexpectedMessage where it does not, or where `silo` is not one of its cohort.
    """
    honest = start.round
    for field, offered, due in (
        ("input", round_.input_digest, honest.input_digest),
        ("cohort", round_.cohort, honest.cohort),
    ):
        if offered != due:
            raise UnexpectedMessage(f"offers round {round_.index} with another {field}", party="aggregator")
    if silo not in honest.silos:
        raise UnexpectedMessage(f"offers round {round_.index} to a silo that is not in its cohort", party="aggregator")
