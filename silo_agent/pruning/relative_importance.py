"""Which of the weights that equally many silos kept matter most: RIA's score, of opened sums alone (ADR 24)."""

from math import fsum
from typing import Final

import numpy as np
import torch
from torch import Tensor

BITS: Final = 30
"""In which sizes are added up, of the largest of a row or column."""

SMALLEST: Final = -90
"""Exponent of two below which sizes are as good as zero: its scale is still a float32."""

SLICE: Final = 1 << 22
"""Weights that are added up at a time."""


def relative_importance(keep_counts: Tensor, survivors: int, weight: Tensor) -> Tensor:
    """(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||^(1/2), the same on every machine.

    The score of RIA (Zhang et al., ICLR 2024, section 3.2) without anybody's text: how strong an input is, the silos'
    disagreement tells. A weight that some silos kept and some did not is near their thresholds; where such weights are
    small, the input is strong. ||X_j|| is one over the mean share that contested weights of column j have
    of their rows, with one more of the tensor's mean share among them; 1 where silos agree on everything.

    Both are [d_out, d_in]: `keep_counts` uint8, each at most `survivors`, and `weight` what would be kept; so is the
    result, float32. A row or column of zeros has a share of 0. Raises ValueError for NaN or infinity in the weight.
    """
    size = weight.abs().float()
    if not size.isfinite().all():
        raise ValueError("NaN and infinity have no rank")
    of_row = shares(size, 1)
    contested = (keep_counts > 0) & (keep_counts < survivors)
    number, near = contested.sum(0), _totals(of_row * contested, 0)[0]
    usual = fsum(near.tolist()) / max(1, int(number.sum()))
    strength = (number + 1) / (near + usual) if usual else torch.ones_like(near)
    return shares(size, 0).add_(of_row).mul_(strength.sqrt().float())


def shares(size: Tensor, dim: int) -> Tensor:
    """Return each size over the sum of its row (`dim` 1) or column (0), the same on every machine; 0 where that is 0.

    `size` is float32 [d_out, d_in], not negative and finite, on any device; so is the result.
    """
    totals = _totals(size, dim).float()
    return size / torch.where(totals > 0, totals, 1)


def _totals(size: Tensor, dim: int) -> Tensor:
    """Sums over `dim`, which stays, float64: of integers, so that they do not depend on the order of addition."""
    exponents = np.frexp(size.amax(dim, keepdim=True).cpu().numpy())[1].clip(SMALLEST)
    scale = torch.from_numpy(np.ldexp(np.float32(1), BITS - exponents)).to(
        size.device
    )  # powers of two: no product is rounded
    step = max(1, SLICE // size.shape[1])
    rows = zip(torch.split(size, step), torch.split(scale.expand(len(size), -1), step), strict=True)
    parts = [(part * of_part).int().sum(dim, keepdim=True) for part, of_part in rows]
    return (torch.cat(parts) if dim else torch.stack(parts).sum(0)) / scale.double()
