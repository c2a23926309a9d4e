"""Least squares under a given keep mask: kept weights take over what pruned ones did, as far as they can."""

from typing import Final

import torch
from torch import Tensor

ITERATIONS: Final = 50
"""At most, each of them one product of weight and Gram matrix."""

TOLERANCE: Final = 1e-4
"""Of the residual's norm at the start, in the norm that the preconditioner gives: where a row is solved."""


def refit(weight: Tensor, start: Tensor, keep: Tensor, gram: Tensor) -> Tensor:
    """Return kept weights, float32 [d_out, d_in] with zeros elsewhere, of a lower layer error than `start` has.

    The layer error of new weights V is tr((W - V) G (W - V)^T): W is `weight` [d_out, d_in] of any float, G `gram`,
    float32 [d_in, d_in]. `start` is float32, `keep` bool, both like the weight. Conjugate gradients with G's diagonal
    as preconditioner lower every row's share of it, all rows at once. A row stays as it started where float32 finds its
    error no lower in the end, and goes no further where G is not positive. Holds eight weights, nothing of G's size.
    """
    dense, new = weight.float(), start * keep
    diagonal = gram.diagonal()
    preconditioner = torch.where(diagonal > 0, diagonal.reciprocal(), 0)
    error, slope = _error(dense - new, gram)
    residual = slope * keep
    direction, solved, before = torch.zeros_like(new), None, None
    for _ in range(ITERATIONS):
        descent = residual * preconditioner
        square = (residual * descent).sum(1, keepdim=True)
        solved = TOLERANCE**2 * square if solved is None else solved
        if (square <= solved).all():
            break
        direction = descent if before is None else descent.addcmul_(direction, _ratio(square, before))
        image = direction @ gram * keep
        step = _ratio(square, (direction * image).sum(1, keepdim=True))
        new.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
        before = square
    lowered = _error(dense - new, gram)[0] < error
    return torch.where(lowered, new, start * keep)


def _error(lost: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's error [d_out, 1] where `lost` is missing from the weights, and minus half its slope [d_out, d_in]."""
    slope = lost @ gram
    return (lost * slope).sum(1, keepdim=True), slope


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is not positive."""
    return torch.where(denominator > 0, numerator / denominator, 0)
