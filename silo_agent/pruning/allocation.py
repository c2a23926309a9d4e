"""How a sparsity ratio is spread over the blocks by what a model and a text are; OWL: how many outliers each block has.

What a silo counts are integers, one a block, so the counts of silos add up to those of all their text.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Final

import torch
from torch import Tensor

from crypto.names import Allocation, ComparisonGroup
from crypto.pruning.alpha_pruning import alpha_ratios
from crypto.pruning.owl import owl_ratios
from crypto.pruning.sparsity import Sparsity
from silo_agent.model.activations import BlockWalk
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.pruning.pruners import wanda
from silo_agent.pruning.spectral import block_alphas

OUTLIER_FACTOR: Final = 5
"""The paper's M: an outlier's score is above M times the mean."""


def outlier_counts(weights: DenseWeights, sequences: Tensor | Sequence[Tensor], *, device: torch.device) -> list[int]:
    """Return by block how many prunable weights have a Wanda score above `OUTLIER_FACTOR` times the block's mean score.

    The mean is over all prunable weights of the block together, as in the published code, and the statistics are those
    of the dense model: nothing is pruned in between. `sequences` is int64 [samples, L] or a list of int64 [L_i].
    """
    walk = BlockWalk(weights, sequences, device=device)
    counts = []
    for block in walk:
        score = partial(_score, weights, walk.energies(onward=True), device)  # computed twice rather than kept
        size = sum(weights.shape(name).numel() for name in block.prunable)
        bound = OUTLIER_FACTOR * sum(float(score(name).sum(dtype=torch.float64)) for name in block.prunable) / size
        counts.append(sum(int((score(name) > bound).sum()) for name in block.prunable))
    return counts


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
    return wanda.score(stored.T if weights.input_first(name) else stored, energies[name])
