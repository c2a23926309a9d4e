"""SparseGPT (Frantar & Alistarh, ICML 2023, section 3, algorithm 1): what pruned weights did, the kept ones take over.

Columns are walked from the first input to the last. Those of a weight that is pruned leave an error in the layer's
output; the weights of the row's later columns are moved so as to undo as much of it as they can on the calibration
text. As in the published code keep masks are chosen for 128 columns at a time (an n:m pattern's for m), from the
weights as moved so far. It differs from that code in four ways:
- Every comparison group loses exactly k weights: a block's share of k is that of its columns. The published
  threshold, `<=` one past the share, prunes a weight more in each block, and all that tie.
- An input that is always 0 (dead) is pruned first but, where kept, keeps its dense weight; the published code sets
  the whole column to 0, which would be more zeros than k. Its place in the mean for damping is 0, not 1, so that the
  Gram matrix' scale does not matter.
- The factor of the inverse is computed from that of the Gram matrix, not by inverting and factorising again.
- Where no token came (an expert), there is nothing to undo: weights are ranked by magnitude and not moved. So they are
  where the Gram matrix is not positive definite however damped, or too large for float32.
"""

from typing import Final

import torch
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.keep_mask import keep_by_score, keep_in_groups
from silo_agent.second_order.inverse_factor import inverse_factor

STATISTIC: Final = "grams"

BLOCK_COLUMNS: Final = 128


def prune(weight: Tensor, gram: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
    """Prune as `Method.prune` says; a new weight may be infinite or NaN where text and weights are beyond float32.

    Computes in float32; besides the arguments it holds two Gram matrices and three weights.
    """
    sparsity.groups(weight.shape)  # raises where a pattern does not fit, before the work
    factor = inverse_factor(gram)
    if factor is None:
        keep = keep_by_score(weight.abs().float(), weight, sparsity)
        return keep, weight.float() * keep
    step = sparsity.target.of if isinstance(sparsity.target, Pattern) else BLOCK_COLUMNS
    block = BLOCK_COLUMNS // step * step
    dead = gram.diagonal() == 0
    # Input by input, so that a column's weights lie together. A copy: the weight may be a file's own bytes.
    moved = weight.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    moved[dead] = 0
    keep = torch.empty_like(moved, dtype=torch.bool)
    for start in range(0, len(moved), block):
        columns = moved[start : start + block]
        triangle = factor[start : start + block, start : start + block]
        errors = torch.zeros_like(columns)
        for i in range(len(columns)):
            if i % step == 0:
                upcoming = columns[i : i + step] - triangle[:i, i : i + step].T @ errors[:i]
                scale = triangle.diagonal()[i : i + step, None]
                chosen = slice(start + i, start + i + len(upcoming))
                keep[chosen] = _keep_columns((upcoming / scale).square().T, weight[:, chosen], sparsity, start + i).T
                erring = ~keep[chosen] / scale
            columns[i].addmv_(errors[:i].T, triangle[:i, i], alpha=-1)
            torch.mul(columns[i], erring[i % step], out=errors[i])
        moved[start + block :].addmm_(factor[start : start + block, start + block :].T, errors, alpha=-1)
    return keep.T.contiguous(), torch.where(dead, weight.float(), moved.T).masked_fill_(~keep.T, 0)


def _keep_columns(score: Tensor, weight: Tensor, sparsity: Sparsity, first: int) -> Tensor:
    """Keep mask of consecutive columns of a weight, both arguments [d_out, columns], of which `first` come before."""
    rows, columns = score.shape

    def count(columns: int) -> int:
        return sparsity.prune_count(sparsity.groups((rows, columns))[1])

    prune = count(columns)
    if not isinstance(sparsity.target, Pattern) and sparsity.group is not ComparisonGroup.COLUMN:
        prune = count(first + columns) - count(first)  # layers and rows go on: these columns' share of k
    return keep_in_groups(score, weight, sparsity, prune)
