"""How a sparsity ratio is spread over the blocks by what a model and a text are; OWL: how many outliers each block has.

What a silo counts are integers, one a block, so the counts of silos add up to those of all their text.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Final

import torch
from torch import Tensor

from crypto.names import Allocation, ComparisonGroup
from crypto.pruning.alpha_pruning import alpha_ratios
from crypto.pruning.owl import owl_ratios
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.blocks import Block
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.pruning.pruners import wanda
from silo_agent.pruning.spectral import block_alphas

OUTLIER_FACTOR: Final = 5
"""The paper's M: an outlier's score is above M times the mean."""

BITS: Final = 24
"""How many bits a float32's significand has, the hidden one included."""

EXPONENTS: Final = range(-148, 129)
"""Of float32 values in [2^(e - 1), 2^e), subnormal ones included."""

SLICE: Final = 1 << 22
"""Scores that are added up at a time."""


def outlier_counts(weights: DenseWeights, sequences: Tensor | Sequence[Tensor], *, device: torch.device) -> list[int]:
    """Return by block how many prunable weights have a Wanda score above `OUTLIER_FACTOR` times the block's mean score.

    The mean is over all prunable weights of the block together, as in the published code, and the statistics are those
    of the dense model: nothing is pruned in between. `sequences` is int64 [samples, L] or a list of int64 [L_i].
    """
    walk = BlockWalk(weights, sequences, device=device)
    return [outlier_count(weights, block, energies=walk.energies(onward=True), device=device) for block in walk]


def outlier_count(weights: DenseWeights, block: Block, *, energies: Mapping[str, Tensor], device: torch.device) -> int:
    """Return how many prunable weights of a block have a score above `OUTLIER_FACTOR` times its mean score (2.8.1).

    `energies` are those of the weights' inputs by name, float32 [d_in]: the same have the same count on every machine.
    """
    score = partial(_score, weights, energies, device)  # computed twice rather than kept
    size = sum(weights.shape(name).numel() for name in block.prunable)
    bound = float(OUTLIER_FACTOR * sum(exact_sum(score(name)) for name in block.prunable) / size)
    return sum(int((score(name) > bound).sum()) for name in block.prunable)


def exact_sum(values: Tensor) -> Fraction:
    """Return the sum of float32 values, which are finite, without rounding: no order of addition changes it.

    Values of one exponent are whole numbers of the same unit, below 2^24, and up to 2^39 of them are added up exactly.
    """
    units = torch.zeros(len(EXPONENTS), dtype=torch.int64, device=values.device)
    for some in torch.split(values.flatten(), SLICE):
        significands, exponents = torch.frexp(some)
        units.index_add_(0, exponents.long() - EXPONENTS.start, (significands * (1 << BITS)).long())
    return sum(
        (Fraction(2) ** (e - BITS) * count for e, count in zip(EXPONENTS, units.tolist(), strict=True)), Fraction(0)
    )


def spread_sparsities(
    weights: DenseWeights,
    sequences: Tensor | Sequence[Tensor],
    allocation: Allocation,
    target: Decimal,
    group: ComparisonGroup,
    *,
    device: torch.device,
) -> list[Sparsity]:
    """Return a sparsity a block, which together come to `target`, spread as `allocation` says.

    `alpha` looks at no text, `sequences` are for `owl`.
    """
    sizes = [sum(weights.shape(name).numel() for name in block.prunable) for block in weights.blocks]
    match allocation:
        case Allocation.OWL:
            ratios = owl_ratios(outlier_counts(weights, sequences, device=device), sizes, target)
        case Allocation.ALPHA:
            ratios = alpha_ratios(block_alphas(weights, device=device), sizes, target)
        case Allocation.UNIFORM:
            ratios = [target] * len(sizes)
    return [Sparsity(ratio, group) for ratio in ratios]


def _score(weights: DenseWeights, energies: Mapping[str, Tensor], device: torch.device, name: str) -> Tensor:
    stored = weights.tensor(name).to(device)
    score = wanda.score(stored.T if weights.input_first(name) else stored, energies[name].to(device))
    return score.nan_to_num_()  # beyond float32 is the largest float32: no text decides that a count fails (14.2.1)
