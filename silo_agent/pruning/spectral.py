"""What AlphaPruning (`crypto/pruning/alpha_pruning`) spreads a ratio by: how heavy the tails of the spectra are.

It depends on the dense model alone, so every silo and the aggregator find the same.
"""

from decimal import Decimal

import torch
from torch import Tensor

from crypto.errors import ModelError
from silo_agent.checkpoint.dense_weights import DenseWeights


def block_alphas(weights: DenseWeights, *, device: torch.device) -> list[Decimal]:
    """Return by block the mean of its prunable weights' exponents, rounded to 0.0001 so that machines agree.

    Raises ModelError naming a weight that is not finite or whose spectrum has no tail: all its eigenvalues are equal.
    """
    means = []
    for block in weights.blocks:
        alphas = []
        for name in block.prunable:
            weight = weights.tensor(name).to(device, torch.float64)
            alpha = hill_alpha(weight) if weight.isfinite().all() else None
            if alpha is None:
                raise ModelError(
                    f"{weights.folder}: {name}: weights are not finite, or their spectrum has no tail",
                    hint="copy the model again, or spread the sparsity ratio otherwise",
                )
            alphas.append(alpha)
        means.append(round(Decimal(sum(alphas) / len(alphas)), 4))
    return means


def hill_alpha(weight: Tensor) -> float | None:
    """Return the Hill estimate of the power law's exponent in the spectrum of a weight, float64 [rows, columns].

    The paper's PL_Alpha_Hill: with the n = min(rows, columns) eigenvalues of W^T W that can be other than 0, in rising
    order, and k = n / 2 rounded down, it is 1 + k / sum of log(lambda_i / lambda_(n-k)) over the k largest. (The
    published code has lambda_(n-k+1) below the line.) Eigenvalues that may be rounding alone count as that rounding.
    None where all are equal.
    """
    small = weight if weight.shape[0] <= weight.shape[1] else weight.T
    eigenvalues = torch.linalg.eigvalsh(small @ small.T)
    rounding = eigenvalues[-1] * len(eigenvalues) * torch.finfo(torch.float64).eps
    k = len(eigenvalues) // 2
    logs = eigenvalues.clamp_min(rounding).log()
    total = float((logs[-k:] - logs[-k - 1]).sum())
    return 1 + k / total if total > 0 else None
