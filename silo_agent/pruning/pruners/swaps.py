"""Swaps: Wanda's keep mask, made better one exchange at a time, then least squares on what is kept.

As in SparseSwaps (arXiv 2512.10922): an exchange of a kept weight for a pruned one of the same row is judged by the
layer error itself, of which the Gram matrix tells exactly how both together would change it. The best one of a row is
made, again and again, until none lowers its error. Least squares, which that method leaves out, come last. Swaps stay
within a row, and for n:m within the pattern's run of inputs, so that every group keeps as many weights as before. In
columns, where an exchange changes two groups, there is none. An input that is always 0 (dead) is pruned first but,
where kept, keeps its dense weight. Where the Gram matrix is not positive definite however damped, or no token came,
weights are ranked by magnitude and not moved.
"""

from functools import lru_cache
from math import inf
from typing import Final

import torch
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.damped_gram import damped
from silo_agent.pruning.keep_mask import keep_by_score
from silo_agent.pruning.pruners import magnitude, wanda
from silo_agent.pruning.refit import refit

STATISTIC: Final = "grams"

DAMPING: Final = 0.01
MOST_SWAPS: Final = 100
"""Of a row."""

LEAST_GAIN: Final = 1e-5
"""Of a row's error: what lowers it by less is within float32's rounding, and not done."""

PAIRS_AT_ONCE: Final = 1 << 18
"""Of a kept and a pruned input, over rows: what bounds memory."""


def prune(weight: Tensor, gram: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
    """Prune as `Method.prune` says; a new weight may be infinite or NaN where text and weights are beyond float32.

    Computes in float32; besides the arguments it holds three Gram matrices at first, then one, three weights, and the
    larger of five weights more and `PAIRS_AT_ONCE` numbers (d_in^2 where that is more). A swap of a row costs d_in^2
    operations, within a pattern's runs d_in x m.
    """
    energy = gram.diagonal()
    keep = keep_by_score(wanda.score(weight, energy.clamp(min=0)), weight, sparsity)
    positive = _positive(gram)
    if positive is None:
        keep, _ = magnitude.prune(weight, None, sparsity)
        return keep, weight.float() * keep
    dead = energy <= 0
    living = weight.float().masked_fill(dead, 0)
    if isinstance(sparsity.target, Pattern):
        keep = swapped(living, keep, positive, sparsity.target.of)
    elif sparsity.group is not ComparisonGroup.COLUMN:
        keep = swapped(living, keep, positive, len(gram))
    new = refit(living, living * keep, keep, positive)
    return keep, torch.where(dead, weight.float(), new).masked_fill_(~keep, 0)


@lru_cache(maxsize=1)  # q, k and v share one Gram matrix, the same object
def _positive(gram: Tensor) -> Tensor | None:
    """The damped Gram matrix, float32 [d_in, d_in]; None where no damping makes it positive definite."""
    return damped(gram, DAMPING)


def swapped(weight: Tensor, keep: Tensor, gram: Tensor, run: int) -> Tensor:
    """Return a keep mask of lower error, bool [d_out, d_in], with as many zeros as `keep` in every `run` of a row.

    `weight` and `gram` are float32, [d_out, d_in] and [d_in, d_in], `keep` bool like the weight; `run` divides d_in. A
    row's error is w G w^T of its pruned weights w; kept ones stay as they are.
    """
    at_once = max(1, PAIRS_AT_ONCE // (len(gram) * run))
    starts = range(0, len(weight), at_once)
    return torch.cat([_swapped_rows(weight[i : i + at_once], keep[i : i + at_once], gram, run) for i in starts])


def _swapped_rows(weight: Tensor, keep: Tensor, gram: Tensor, run: int) -> Tensor:
    """`swapped`, of rows that fit into memory at once.

    With pruned weights w and c = w G, pruning kept i as well adds 2 w_i c_i + w_i^2 G_ii, keeping pruned j adds
    -2 w_j c_j + w_j^2 G_jj, and both together -2 w_i w_j G_ij.
    """
    runs = len(gram) // run
    within = gram.view(runs, run, runs, run).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    by_run = weight.view(-1, runs, run)
    together = (within * by_run[:, :, None]).mul_(by_run[..., None]).mul_(-2)
    keep, unsettled = keep.clone(), torch.arange(len(weight), device=weight.device)
    for _ in range(MOST_SWAPS):
        lost = weight[unsettled].masked_fill(keep[unsettled], 0)
        slope = lost @ gram
        own, both = weight[unsettled].square() * gram.diagonal(), 2 * weight[unsettled] * slope
        leaving = (own + both).masked_fill_(~keep[unsettled], inf)
        entering = (own - both).masked_fill_(keep[unsettled], inf)
        pairs = together + entering.view(-1, runs, 1, run)
        change, leaver = (pairs.amin(3).view_as(leaving) + leaving).min(1)
        better = change < -LEAST_GAIN * (lost * slope).sum(1)
        leaver, unsettled = leaver[better], unsettled[better]
        if not len(unsettled):
            break
        partner = pairs.flatten(1, 2)[better, leaver].argmin(1)
        keep[unsettled, leaver], keep[unsettled, leaver // run * run + partner] = False, True
        if len(unsettled) < len(together):
            together = together[better]
    return keep
