"""ADMM pruning (Boža, "Fast and Effective Weight Update for Pruned LLMs", TMLR 2024, arXiv 2401.02938, section 3).

The alternating direction method of multipliers looks for kept weights that leave the least error in the layer's output.
Of its two steps one solves least squares for all weights, the other zeroes those that are not kept. As in the paper
inputs are scaled to length 1 first, and keep masks are chosen anew in each of the first 15 iterations, ever sparser by
a cubic schedule, from the weights as moved so far. It differs from the published code in these ways:
- That code follows the schedule for rows and for 2:4, not for a whole layer, which has all its zeros from the first
  iteration on. Here everything follows it.
- Every n:m pattern is one: the n strongest of m are spared, the others go in the order of their scores, over the layer.
- An input that is always 0 (dead) is pruned first but, where kept, keeps its dense weight.
- Where the Gram matrix is not positive definite with the paper's damping it gets more. Where none helps, or no token
  came, weights are ranked by magnitude and not moved.
"""

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import inf
from typing import Final

import torch
from torch import Tensor

from crypto.names import ComparisonGroup
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.pruning.keep_mask import keep_by_score, keep_in_groups
from silo_agent.pruning.pruners import magnitude
from silo_agent.second_order.damped_gram import damped

STATISTIC: Final = "grams"

ITERATIONS: Final = 20
CHOOSING: Final = 15
"""Iterations in which the keep mask is chosen; in the others it stays."""

DAMPING: Final = 0.1
PENALTY: Final = 1.0
"""The paper's rho, for inputs of length 1."""


def prune(weight: Tensor, gram: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
    """Prune as `Method.prune` says; a new weight may be infinite or NaN where text and weights are beyond float32.

    Computes in float32; besides the arguments it holds four Gram matrices at first, then one and six weights.
    """
    sparsity.groups(weight.shape)  # raises where a pattern does not fit, before the work
    inverse = _inverse(gram)
    if inverse is None:
        keep, _ = magnitude.prune(weight, None, sparsity)
        return keep, weight.float() * keep
    length = _lengths(gram)
    dense = weight.float() * length
    keep = torch.ones_like(dense, dtype=torch.bool)
    # Of the paper's W, Z and U, the sum W + U is all that the next iteration needs: Z is its kept part, U the rest.
    total = dense
    for iteration in range(1, ITERATIONS + 1):
        if iteration <= CHOOSING:
            keep = _choose(total.abs(), weight, sparsity, iteration)
        kept = total * keep
        # (G + rho)^-1 (G W0 + rho (Z - U)), without G: W0 + rho (G + rho)^-1 (Z - U - W0).
        total = torch.addmm(dense + total - kept, 2 * kept - total - dense, inverse, alpha=PENALTY)
    return keep, torch.where(length > 0, total / length, weight.float()).masked_fill_(~keep, 0)


def _lengths(gram: Tensor) -> Tensor:
    """Inputs' norms over all tokens, float32 [d_in]; 0 also where rounding left a sum of squares below 0."""
    return gram.diagonal().clamp(min=0).sqrt()


@lru_cache(maxsize=1)  # q, k and v share one Gram matrix, the same object
def _inverse(gram: Tensor) -> Tensor | None:
    """(G + rho)^-1, float32 [d_in, d_in], of the damped Gram matrix of inputs of length 1; None without one."""
    length = _lengths(gram)
    shrink = torch.where(length > 0, length.reciprocal(), 0)
    positive = damped(gram * shrink * shrink[:, None], DAMPING)
    if positive is None:
        return None
    positive.diagonal().add_(PENALTY)
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(positive).L)


def _choose(score: Tensor, weight: Tensor, sparsity: Sparsity, iteration: int) -> Tensor:
    """The keep mask of an iteration of those in which it is chosen, from 1: its share of zeros, and at last all."""
    groups, size = sparsity.groups(weight.shape)
    share = 1 - Fraction(CHOOSING - iteration, CHOOSING) ** 3
    if not isinstance(sparsity.target, Pattern):
        return keep_in_groups(score, weight, sparsity, int(Fraction(sparsity.target) * size * share))
    spared = keep_by_score(score, weight, sparsity)
    if iteration == CHOOSING:
        return spared
    layer = Sparsity(Decimal(0), ComparisonGroup.LAYER)
    zeros = int(groups * sparsity.prune_count(size) * share)
    return keep_in_groups(score.masked_fill(spared, inf), weight, layer, zeros)
