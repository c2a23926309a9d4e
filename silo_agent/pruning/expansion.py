"""From what silos decided about one tensor to the tensor that the model gets: mask expansion, and new weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.errors import CorruptSum
from crypto.pruning.sparsity import Sparsity
from crypto.pruning.work import PruningWork
from silo_agent.pruning.keep_mask import as_groups
from silo_agent.pruning.likely_counts import PARTS, likely_counts
from silo_agent.pruning.mask_expansion import expand
from silo_agent.pruning.prune import Pruned
from silo_agent.pruning.relative_importance import relative_importance


@dataclass(frozen=True)
class OpenedTensor:
    """One tensor, of which sums over all survivors were opened."""

    name: str
    survivors: int
    input_first: bool
    """Whether the tensor is stored [d_in, d_out]; the arrays are in the stored shape."""


@dataclass(frozen=True)
class TensorSums(OpenedTensor):
    """What one tensor's sums opened to."""

    keep_counts: NDArray[np.uint8]
    nonzero: NDArray[np.uint64]
    """Summed nonzero counts, one a comparison group of [d_out, d_in]."""
    average_change: NDArray[np.float64] | None = None
    """By how much the silos that kept a weight changed it on average; None where kept weights stay dense."""


@dataclass(frozen=True)
class NoisyCounts(OpenedTensor):
    """What one tensor's keep counts opened to in a plan with noise on them."""

    counts: NDArray[np.int64]
    """How many survivors kept each weight, in units, with noise around 0."""
    units: int
    """How many units a vote is worth."""
    variance: int
    """How large the noise of the survivors is at least, in units squared."""


@dataclass(frozen=True)
class ExpandedTensor(Pruned):
    """What the silos made of one tensor together: `keep` is the expanded keep mask."""

    keep_counts: Tensor | None = None
    """uint8: how many survivors kept each weight, with noise most likely; None where silos release no keep masks."""


def expand_tensor(sums: TensorSums, dense: Tensor, work: PruningWork, sparsity: Sparsity) -> ExpandedTensor:
    """Return the expanded keep mask and the new weight of a tensor, of which `dense` is the dense weight.

    Raises CorruptSum where a group's counts do not add up to its nonzero count. The check detects faults; it is no
    security, since a silo that lies can lie consistently.
    """
    keep_counts = torch.from_numpy(sums.keep_counts)
    weight = None if sums.average_change is None else dense.double() + torch.from_numpy(sums.average_change)
    kept = dense if weight is None else weight
    turned_counts, turned_kept = (keep_counts.T, kept.T) if sums.input_first else (keep_counts, kept)
    _check_sums(sums.name, as_groups(turned_counts, work.comparison_group), sums.nonzero)
    keep = expand(turned_counts, relative_importance(turned_counts, sums.survivors, turned_kept), sparsity)
    keep = (keep.T if sums.input_first else keep).contiguous()
    if work.message.weight_scaling:
        weight = kept.double() * (keep_counts.double() / sums.survivors)
    if weight is not None:
        weight = weight.to(dense.dtype).masked_fill_(~keep, 0)
    return ExpandedTensor(sums.name, keep, weight, keep_counts=keep_counts)


def expand_noisy(sums: NoisyCounts, dense: Tensor, sparsity: Sparsity) -> ExpandedTensor:
    """Return the expanded keep mask of a tensor by what its keep counts most likely are."""
    counts, weight = (sums.counts.T, dense.T) if sums.input_first else (sums.counts, dense)
    importance = relative_importance(torch.zeros(weight.shape, dtype=torch.uint8), sums.survivors, weight)
    likely = torch.from_numpy(likely_counts(counts, sums.units, sums.variance, importance.numpy()))
    keep = expand(likely, importance, sparsity)
    whole = ((likely + PARTS // 2) // PARTS).clamp(0, sums.survivors).to(torch.uint8)
    keep, whole = ((stored.T if sums.input_first else stored).contiguous() for stored in (keep, whole))
    return ExpandedTensor(sums.name, keep, None, keep_counts=whole)


def _check_sums(name: str, counts: Tensor, nonzero: NDArray[np.uint64]) -> None:
    sums = counts.sum(1, dtype=torch.int64).numpy()
    if not np.array_equal(sums, nonzero):
        group = int(np.flatnonzero(sums != nonzero)[0])
        raise CorruptSum(f"{name}: group {group} has {sums[group]} kept by count and {nonzero[group]} by nonzero count")
