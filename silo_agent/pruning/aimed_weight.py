"""What a layer's weights would be, were its outputs to make up for what pruning did before it (docs/adr/0042).

A layer that writes to the residual stream last in its block can aim at the dense model's hidden states after the block.
Solvers then get the weight that comes nearest to them, in place of the dense one.
"""

from typing import Final

import torch
from torch import Tensor

from silo_agent.second_order.damped_gram import damped

DAMPING: Final = 0.1
"""Of the Gram matrix' mean diagonal: how much is held against moving away from the dense weight."""


def aimed(weight: Tensor, gram: Tensor, target: Tensor) -> Tensor:
    """Return W + (T - W G)(G + d)^-1, float32 [d_out, d_in], of a weight W of any float.

    G is X^T X of the layer's inputs X [tokens, d_in], and T is Y^T X with Y [tokens, d_out] what it should write; d is
    the damping, or more where that makes no positive definite matrix. Where none does, or what comes out is beyond
    float32, the weight stays as it is.
    """
    dense, positive = weight.float(), damped(gram, DAMPING)
    if positive is None:
        return dense
    moved = torch.cholesky_solve((target - dense @ gram).T, torch.linalg.cholesky_ex(positive).L).T
    return dense + moved if moved.isfinite().all() else dense
