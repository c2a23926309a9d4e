"""Wanda (Sun et al., ICLR 2024, section 3): a weight matters as much as it is large and its input is strong."""

from typing import Final

from torch import Tensor

from crypto.names import ComparisonGroup

GROUP: Final = ComparisonGroup.ROW
"""Wanda compares weights within one output row."""


def score(weight: Tensor, energy: Tensor) -> Tensor:
    """|W_ij| * ||X_j||: float32 [d_out, d_in], of a weight [d_out, d_in] and its inputs' energy, float32 [d_in]."""
    return weight.abs().float() * energy.sqrt()
