"""The upper triangular factor of a damped Gram matrix' inverse, by which SparseGPT and GPTQ move a row's later weights.

Both take it from Optimal Brain Compression (Frantar & Alistarh, NeurIPS 2022): row i of the factor says how an error in
input i is best undone by the inputs after it.
"""

from functools import lru_cache

import torch
from torch import Tensor

from silo_agent.second_order.damped_gram import DAMPING


@lru_cache(maxsize=1)  # q, k and v share one Gram matrix, the same object
def inverse_factor(gram: Tensor) -> Tensor | None:
    """Upper triangular U, float32 [d_in, d_in], where U^T U is the inverse of the damped Gram matrix; None without one.

    With a lower L L^T the matrix read backwards in both directions, R = L read so is upper and R R^T the matrix
    itself: U is R^-1.
    """
    if not gram.any():
        return None
    backwards, mean = gram.flip(0, 1), gram.diagonal().mean()
    added = 0.0
    for damping in DAMPING:
        backwards.diagonal().add_((damping - added) * mean)
        added = damping
        lower, failed = torch.linalg.cholesky_ex(backwards)
        if not failed:
            identity = torch.eye(len(gram), device=gram.device)
            inverse: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
            return inverse if (lower.isfinite() & inverse.isfinite()).all() else None
    return None
