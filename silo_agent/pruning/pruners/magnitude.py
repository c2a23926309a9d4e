"""Magnitude pruning (Han et al., NeurIPS 2015): small weights matter least. It looks at no text."""

from typing import Final

from torch import Tensor

from crypto.pruning.sparsity import Sparsity
from silo_agent.pruning.keep_mask import keep_by_score

STATISTIC: Final = None


def score(weight: Tensor, _: None = None) -> Tensor:
    """|W_ij|: float32, as the weight [d_out, d_in]."""
    return weight.abs().float()


def prune(weight: Tensor, _: None, sparsity: Sparsity) -> tuple[Tensor, None]:
    """Prune as `Method.prune` says; kept weights stay as they are."""
    return keep_by_score(score(weight), weight, sparsity), None
