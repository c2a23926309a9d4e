"""Gram matrices that can be inverted."""

from typing import Final

import torch
from torch import Tensor

DAMPING: Final = (0.01, 0.1, 1.0, 10.0)
"""Of the Gram matrix' mean diagonal, added to its diagonal: the first with which it is positive definite."""


def damped(gram: Tensor, least: float) -> Tensor | None:
    """Return a copy, float32 [d_in, d_in], with the first damping from `least` on that makes it positive definite.

    Returns None where none does, as for zeros, or the matrix is too large for float32. Holds two more such matrices.
    """
    positive, mean, added = gram.clone(), gram.diagonal().mean(), 0.0
    for damping in DAMPING[DAMPING.index(least) :]:
        positive.diagonal().add_((damping - added) * mean)
        added = damping
        lower, failed = torch.linalg.cholesky_ex(positive)
        if not failed:
            return positive if (positive.isfinite() & lower.isfinite()).all() else None
    return None
