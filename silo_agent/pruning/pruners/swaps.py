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
from silo_agent.pruning.keep_mask import keep_by_score
from silo_agent.pruning.pruners import magnitude, wanda
from silo_agent.second_order.damped_gram import damped
from silo_agent.second_order.refit import refit

STATISTIC: Final = "grams"

DAMPING: Final = 0.01
MOST_SWAPS: Final = 100
"""The most swaps that are made in one row of weights."""

LEAST_GAIN: Final = 1e-5
"""The share of a row's error below which a swap's gain is within float32's rounding, and the swap is not made."""

PAIRS_AT_ONCE: Final = 1 << 24
"""Of a kept and a pruned input, over rows: what bounds memory."""


def prune(weight: Tensor, gram: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
    """Prune as `Method.prune` says; a new weight may be infinite or NaN where text and weights are beyond float32.

    Computes in float32; besides the arguments it holds three Gram matrices at first, then one, three weights, and the
    larger of five weights more and 3 x `PAIRS_AT_ONCE` numbers (d_in^2 where that is more, or d_in x m of a pattern).
    A swap of a row passes twice over its pairs of a kept and any other input, within a pattern's runs over theirs.
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
    by_run = weight.view(-1, len(gram) // run, run)
    runs, most = by_run.shape[1], int(keep.view(by_run.shape).sum(2).max())
    if not most:
        return keep
    within = gram.view(runs, run, runs, run).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    # Of each run the inputs that are kept, and where those are fewer than elsewhere also others, which cannot leave.
    places = keep.view(by_run.shape).byte().topk(most, 2).indices
    together = within[torch.arange(runs, device=places.device)[:, None], places].mul_(by_run[:, :, None])
    together.mul_(-2 * by_run.gather(2, places)[..., None])
    keep, unsettled = keep.clone(), torch.arange(len(weight), device=weight.device)
    for _ in range(MOST_SWAPS):
        row, kept = weight[unsettled], keep[unsettled]
        lost = row.masked_fill(kept, 0)
        slope = lost @ gram
        own, both = row.square() * gram.diagonal(), 2 * row * slope
        leaving = (own + both).masked_fill_(~kept, inf).view(-1, runs, run).gather(2, places)
        entering = (own - both).masked_fill_(kept, inf).view(-1, runs, 1, run)
        pairs = together + entering
        change, place = (pairs.amin(3) + leaving).flatten(1).min(1)
        better = change < -LEAST_GAIN * (lost * slope).sum(1)
        if not better.any():
            break
        place = place[better]
        partner = pairs.flatten(1, 2)[better, place].argmin(1)
        if not better.all():
            unsettled, places, together = unsettled[better], places[better], together[better]
        at = torch.arange(len(unsettled), device=place.device), place // most, place % most
        first = at[1] * run
        keep[unsettled, first + places[at]], keep[unsettled, first + partner] = False, True
        places[at] = partner
        exchanged = by_run[unsettled, at[1]]
        together[at] = -2 * exchanged.gather(1, partner[:, None]) * exchanged * within[at[1], partner]
    return keep
