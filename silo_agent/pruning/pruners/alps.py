"""ALPS (Meng et al., "Improved Optimization for Highly Sparse One-Shot Pruning", NeurIPS 2024, arXiv 2406.07831).

The alternating direction method of multipliers as in `admm`, but with every zero from the start, and with a penalty
that grows as long as the keep mask changes, so that it settles (section 3.1, algorithm 1); then least squares on the
kept weights by conjugate gradients (section 3.2). Steps, thresholds and start are those of the published code. It
differs from that code in these ways:
- Every comparison group loses exactly k weights, the layer being one of them.
- An input that is always 0 (dead) is pruned first but, where kept, keeps its dense weight. There its damping counts.
- Conjugate gradients may take more than 10 iterations.
- Where the Gram matrix is not positive definite with the paper's damping it gets more. Where none helps, or no token
  came, weights are ranked by magnitude and not moved.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from crypto.pruning.sparsity import Sparsity
from silo_agent.pruning.keep_mask import keep_by_score
from silo_agent.pruning.pruners import magnitude
from silo_agent.second_order.damped_gram import damped
from silo_agent.second_order.refit import refit

STATISTIC: Final = "grams"

DAMPING: Final = 0.01
FIRST_PENALTY, MOST_PENALTY = 0.1, 1e6
ITERATIONS: Final = 300
CHECK_EVERY: Final = 3
"""Iterations, after which the penalty is set by how many weights have come or gone since the last time."""

ENOUGH: Final = 30
"""Iterations, after which `SETTLED` ends the search."""

MANY, SOME, SETTLED = 0.1, 0.005, 0.0003
"""Weights that came or went, as shares of those kept."""

EIGENVALUE: Final = 1e-6
"""Of the largest eigenvalue: no other is taken to be smaller, which float32 could not tell from 0."""


def prune(weight: Tensor, gram: Tensor, sparsity: Sparsity) -> tuple[Tensor, Tensor]:
    """Prune as `Method.prune` says; a new weight may be infinite or NaN where text and weights are beyond float32.

    Computes in float32; besides the arguments it holds five Gram matrices at first, then three and eight weights.
    """
    sparsity.groups(weight.shape)  # raises where a pattern does not fit, before the work
    decomposed = _decomposed(gram)
    if decomposed is None:
        keep, _ = magnitude.prune(weight, None, sparsity)
        return keep, weight.float() * keep
    positive, values, vectors = decomposed
    dead, length = gram.diagonal() <= 0, positive.diagonal().sqrt()
    living = weight.float().masked_fill(dead, 0)
    settled = _settled(living * length, values, vectors, lambda score: keep_by_score(score, weight, sparsity))
    keep = keep_by_score(settled.abs(), weight, sparsity)
    new = refit(living, settled / length, keep, positive)
    return keep, torch.where(dead, weight.float(), new).masked_fill_(~keep, 0)


@lru_cache(maxsize=1)  # q, k and v share one Gram matrix, the same object
def _decomposed(gram: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The damped Gram matrix [d_in, d_in], and eigenvalues [d_in] and eigenvectors of it with inputs of length 1.

    None where there are none: weights are then ranked by magnitude and not moved.
    """
    positive = damped(gram, DAMPING)
    if positive is None:
        return None
    shrink = positive.diagonal().rsqrt()
    try:
        values, vectors = torch.linalg.eigh(positive * shrink * shrink[:, None])
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch documents it, and its stubs lack it
        return None  # no convergence, which the text decides: it must not end in a refusal (14.2.1)
    return positive, values.clamp(min=EIGENVALUE * float(values[-1])), vectors


def _settled(dense: Tensor, values: Tensor, vectors: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights [d_out, d_in] of inputs of length 1 for which the method has settled; those to be pruned are small.

    `choose` returns the keep mask of scores. As published, a penalty under which the keep mask hardly moves at first is
    too large: it shrinks, and where it moved at all everything starts again.
    """
    penalty, growing = FIRST_PENALTY, False
    start = before = choose(dense.abs())
    kept, dual, weights = int(start.sum()), torch.zeros_like(dense), dense * start
    for iteration in range(1, ITERATIONS + 1):
        if iteration % CHECK_EVERY == 1:  # the penalty is another
            inverse = (vectors / (values + penalty)) @ vectors.T
        # (G + rho)^-1 (G W0 - V + rho D), without G.
        solution = torch.addmm(dense, penalty * (weights - dense) - dual, inverse)
        shifted = solution + dual / penalty
        keep = choose(shifted.abs())
        weights = shifted * keep
        dual = penalty * (shifted - weights)
        if iteration % CHECK_EVERY:
            continue
        changed = int((keep != before).sum())
        before = keep
        growing |= changed > SOME * kept
        if not changed and growing:
            break
        if growing:
            penalty *= 1.3 if changed > MANY * kept else 1.2 if changed > SOME * kept else 1.1
        else:
            penalty /= 5
            if changed:
                weights, dual = dense * start, torch.zeros_like(dense)
        penalty = min(penalty, MOST_PENALTY)
        if iteration > ENOUGH and changed < SETTLED * kept:
            break
    return solution
