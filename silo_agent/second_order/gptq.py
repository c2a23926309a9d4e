"""GPTQ (Frantar et al., ICLR 2023, section 3, algorithm 1): weights as integers, whose errors later weights take over.

Columns are walked from the first input to the last. Rounding a weight leaves an error in the layer's output; the
weights of the row's later columns are moved so as to undo as much of it as they can on the calibration text. A group of
a row's weights shares one scale, and 0 is always exactly 0, so pruned weights stay zero: what they are moved by on the
way is an error too (SparseGPT, Frantar & Alistarh, ICML 2023, section 3). It differs from the published code in two
ways:
- An input that is always 0 (dead) keeps its weights, rounded; the published code sets them to 0.
- Where no token came (an expert), there is nothing to undo: every weight is rounded to the nearest level. So it is
  where the Gram matrix is not positive definite however damped, or weights would move beyond float32.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from crypto.names import Bits
from silo_agent.second_order.inverse_factor import inverse_factor

BLOCK_COLUMNS: Final = 128


class Quantised(NamedTuple):
    """A weight [d_out, d_in] as integers, on its device."""

    levels: Tensor
    """int8 [d_out, d_in], from -2^(bits - 1) to 2^(bits - 1) - 1."""
    scales: Tensor
    """[d_out, groups], of the weight's dtype: a group is d_in / groups consecutive columns."""

    @property
    def weight(self) -> Tensor:
        """Levels times scales: [d_out, d_in], of the scales' dtype."""
        grouped = self.levels.reshape(*self.scales.shape, -1)
        return (grouped * self.scales[..., None]).flatten(1)


def group_size(d_in: int) -> int:
    """Return how many consecutive weights of a row share a scale: 128, or all where 128 does not divide them."""
    return d_in if d_in % BLOCK_COLUMNS else BLOCK_COLUMNS


def quantise(weight: Tensor, gram: Tensor, bits: Bits, keep: Tensor | None = None) -> Quantised:
    """Quantise a weight, any float [d_out, d_in], by the Gram matrix of its inputs, float32 [d_in, d_in].

    With a keep mask, bool [d_out, d_in], weights that are not kept get level 0; where they are not 0 yet, what they did
    is undone too. A group's scale follows from its kept weights as moved so far, and is rounded to the weight's dtype
    before anything is rounded by it. Nothing that depends on the Gram matrix raises. Computes in float32; besides the
    arguments it holds two Gram matrices and three weights.
    """
    factor = inverse_factor(gram)
    if factor is None:
        return round_to_nearest(weight, bits, keep)
    # Input by input, so that a column's weights lie together. A copy: the weight may be a file's own bytes.
    moved = weight.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    kept = torch.ones_like(moved, dtype=torch.bool) if keep is None else keep.T.contiguous()
    levels = torch.empty_like(moved, dtype=torch.int8)
    group, scales = group_size(len(moved)), []
    for start in range(0, len(moved), BLOCK_COLUMNS):
        columns = moved[start : start + BLOCK_COLUMNS]
        triangle = factor[start : start + BLOCK_COLUMNS, start : start + BLOCK_COLUMNS]
        if start % group == 0:
            of_group = slice(start, start + group)
            scales.append(_scale((moved[of_group] * kept[of_group]).abs().amax(0), bits, weight.dtype))
        errors = torch.zeros_like(columns)
        for i in range(len(columns)):
            columns[i].addmv_(errors[:i].T, triangle[:i, i], alpha=-1)
            level = _nearest(columns[i], scales[-1], bits) * kept[start + i]
            levels[start + i] = level
            torch.div(columns[i] - level * scales[-1], triangle[i, i], out=errors[i])
        moved[start + BLOCK_COLUMNS :].addmm_(
            factor[start : start + BLOCK_COLUMNS, start + BLOCK_COLUMNS :].T, errors, alpha=-1
        )
    quantised = Quantised(levels.T.contiguous(), torch.stack(scales, 1))
    if not (moved.isfinite().all() and quantised.weight.isfinite().all()):
        return round_to_nearest(weight, bits, keep)
    return quantised


def round_to_nearest(weight: Tensor, bits: Bits, keep: Tensor | None = None) -> Quantised:
    """Quantise a finite weight as `quantise` says, each of its weights alone: no other is moved."""
    kept = weight.float() if keep is None else weight.float() * keep
    groups = kept.reshape(len(kept), -1, group_size(kept.shape[1]))
    scales = _scale(groups.abs().amax(2), bits, weight.dtype)
    return Quantised(_nearest(groups, scales[..., None], bits).flatten(1), scales)


def _scale(largest: Tensor, bits: Bits, dtype: torch.dtype) -> Tensor:
    """Return the step between levels so that they reach from -`largest` to `largest`; 1 where that is too small.

    As compressed-tensors has it: of 2^bits levels with 0 among them the middle is half a step below 0, so the largest
    positive weight is half a step above the highest level.
    """
    scale: Tensor = (largest * (2 / (2**bits - 1))).to(dtype)
    return scale.masked_fill(scale == 0, 1)


def _nearest(values: Tensor, scale: Tensor, bits: Bits) -> Tensor:
    """Return the levels, int8, nearest to float32 values."""
    return torch.round(values / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(torch.int8)
