"""Scores to keep masks: exactly k weights zeroed in every comparison group, ties broken the same way everywhere."""

from decimal import Decimal

import torch
from torch import Tensor

from crypto.errors import ConfigError
from crypto.names import ComparisonGroup


def prune_count(sparsity_ratio: Decimal, group_size: int) -> int:
    """k = floor(sparsity ratio x group size), in exact arithmetic. ConfigError: a ratio outside 0 to 1."""
    if not (sparsity_ratio.is_finite() and 0 <= sparsity_ratio <= 1):
        raise ConfigError(
            f"--sparsity-ratio {sparsity_ratio} is not from 0 to 1", hint="0.5 zeroes half of the weights"
        )
    numerator, denominator = sparsity_ratio.as_integer_ratio()
    return numerator * group_size // denominator


def keep_top(primary: Tensor, magnitude: Tensor, prune: int) -> Tensor:
    """Keep mask, bool [groups, size], that zeroes exactly `prune` entries in each row: those with the lowest `primary`.

    Ties: the larger `magnitude` (of the dense weight) is kept, then the lower index. `primary` is floating point or
    integer, [groups, size]; `magnitude` floating point, of the same shape. ValueError: a NaN.
    """
    size = primary.shape[1]
    if not 0 <= prune <= size:
        raise ValueError(f"cannot prune {prune} of {size}")
    if primary.isnan().any() or magnitude.isnan().any():
        raise ValueError("NaN has no rank")
    if prune == 0:
        return torch.ones_like(primary, dtype=torch.bool)
    threshold = primary.kthvalue(prune, dim=1, keepdim=True).values
    keep = primary > threshold
    spared = size - prune - keep.sum(1)  # how many of the row's entries at the threshold are kept: fewer than there are
    tied = (primary == threshold) & (spared > 0)[:, None]
    row, column = tied.nonzero(as_tuple=True)  # in order of row, then column, which the stable sorts preserve
    order = magnitude[row, column].sort(descending=True, stable=True).indices
    order = order[row[order].sort(stable=True).indices]
    row, column = row[order], column[order]
    count = tied.sum(1)
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]  # place among the row's tied
    best = rank < spared[row]
    keep[row[best], column[best]] = True
    return keep


def as_groups(matrix: Tensor, group: ComparisonGroup) -> Tensor:
    """Lay a weight matrix [d_out, d_in] out as [groups, size], one comparison group a row."""
    match group:
        case ComparisonGroup.LAYER:
            return matrix.reshape(1, -1)
        case ComparisonGroup.ROW:
            return matrix
        case ComparisonGroup.COLUMN:
            return matrix.T


def from_groups(grouped: Tensor, shape: torch.Size, group: ComparisonGroup) -> Tensor:
    """Undo `as_groups` for a matrix of `shape`."""
    return grouped.T if group is ComparisonGroup.COLUMN else grouped.reshape(shape)


def keep_by_score(score: Tensor, weight: Tensor, sparsity_ratio: Decimal, group: ComparisonGroup) -> Tensor:
    """Keep mask, bool [d_out, d_in], of a weight by its scores, both [d_out, d_in]. ValueError: a NaN."""
    primary, magnitude = as_groups(score, group), as_groups(weight.abs(), group)
    keep = keep_top(primary, magnitude, prune_count(sparsity_ratio, primary.shape[1]))
    return from_groups(keep, weight.shape, group).contiguous()
