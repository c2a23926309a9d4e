"""Scores to keep masks: exactly k weights zeroed in every comparison group, ties broken the same way everywhere."""

from math import inf

import numpy as np
import torch
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity, group_shape


def keep_top(primary: Tensor, magnitude: Tensor, prune: int) -> Tensor:
    """Return a keep mask, bool [groups, size], that zeroes the `prune` entries with the lowest `primary` in each row.

    Ties: the larger `magnitude` (of the dense weight) is kept, then the lower index. `primary` is [groups, size],
    integers (int32 is fastest), float32 or float64; a NaN among them ranks lowest. `magnitude` has the same shape, any
    float. Raises ValueError for a NaN in it.
    """
    size = primary.shape[1]
    if not 0 <= prune <= size:
        raise ValueError(f"cannot prune {prune} of {size}")
    if magnitude.isnan().any():
        raise ValueError("NaN has no rank")
    if (unranked := primary.isnan()).any():  # of a score, which private text decides: it must not end in a refusal
        primary = primary.masked_fill(unranked, -inf)
    if prune == 0:
        return torch.ones_like(primary, dtype=torch.bool)
    threshold = _kth_smallest(primary, prune)
    keep = primary > threshold
    unsettled = (keep.sum(1, dtype=torch.int32) < size - prune).nonzero()[
        :, 0
    ]  # groups that keep some of those at threshold
    if len(unsettled):
        tied = primary[unsettled] == threshold[unsettled]
        keep[unsettled] = _keep_largest(keep[unsettled], tied, magnitude[unsettled], prune)
    return keep


def _keep_largest(keep: Tensor, tied: Tensor, magnitude: Tensor, prune: int) -> Tensor:
    """Return `keep` and, where more are to be kept, of the `tied` those of largest magnitude, then of lowest index."""
    if len(keep) == 1 and not tied.all():  # of a group as large as a layer, only the tied need be looked at
        at = tied[0].nonzero()[:, 0]
        below = int((~(keep | tied)).sum())
        keep[0, at] = _keep_largest(keep[:, at], tied[:, at], magnitude[:, at], prune - below)[0]
        return keep
    ranked = torch.where(tied, magnitude.float(), torch.where(keep, inf, -inf))
    threshold = _kth_smallest(ranked, prune)
    keep = keep | (tied & (ranked > threshold))
    tied &= ranked == threshold
    spared = keep.shape[1] - prune - keep.sum(1, dtype=torch.int32)
    row, column = (tied & (spared > 0)[:, None]).nonzero(as_tuple=True)  # in order of row, then column
    first = torch.searchsorted(row, torch.arange(len(keep), device=row.device))  # where each row's begin
    spare = torch.arange(len(row), device=row.device) - first[row] < spared[row]
    keep[row[spare], column[spare]] = True
    return keep


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """Return the k-th smallest of each row, counted from 1: [rows, 1]."""
    if values.device.type == "cpu":  # twelve times as fast as torch's on rows of thousands, and fast on rows of four
        return torch.from_numpy(np.partition(values.numpy(), k - 1)[:, k - 1 : k])
    if len(values) == 1:  # kthvalue gives a row to one multiprocessor
        return values.sort().values[:, k - 1 : k]
    return values.kthvalue(k, keepdim=True).values


def as_groups(matrix: Tensor, group: ComparisonGroup) -> Tensor:
    """Lay a weight matrix [d_out, d_in] out as [groups, size], one comparison group a row."""
    return (matrix.T if group is ComparisonGroup.COLUMN else matrix).reshape(group_shape(matrix.shape, group))


def in_groups(matrix: Tensor, sparsity: Sparsity) -> Tensor:
    """Lay a weight matrix [d_out, d_in] out as [groups, size], one of `sparsity`'s groups a row.

    Raises PlanError where a pattern does not divide d_in.
    """
    group = ComparisonGroup.ROW if isinstance(sparsity.target, Pattern) else sparsity.group  # a pattern's cut up rows
    return as_groups(matrix, group).reshape(sparsity.groups(matrix.shape))


def from_groups(grouped: Tensor, shape: torch.Size, group: ComparisonGroup) -> Tensor:
    """Undo `as_groups` for a matrix of `shape`."""
    return grouped.T.contiguous() if group is ComparisonGroup.COLUMN else grouped.reshape(shape)


def keep_in_groups(score: Tensor, weight: Tensor, sparsity: Sparsity, prune: int) -> Tensor:
    """Return a weight's keep mask, bool [d_out, d_in], by scores, with `prune` zeros in each of `sparsity`'s groups.

    Both are [d_out, d_in]. Raises PlanError where a pattern does not divide d_in, ValueError for a NaN in the weight.
    """
    group = ComparisonGroup.ROW if isinstance(sparsity.target, Pattern) else sparsity.group
    primary, magnitude = (in_groups(matrix, sparsity) for matrix in (score, weight.abs()))
    return from_groups(keep_top(primary, magnitude, prune), weight.shape, group)


def keep_by_score(score: Tensor, weight: Tensor, sparsity: Sparsity) -> Tensor:
    """Return `keep_in_groups` with as many zeros as `sparsity` says."""
    return keep_in_groups(score, weight, sparsity, sparsity.prune_count(sparsity.groups(weight.shape)[1]))
