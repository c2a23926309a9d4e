"""Wanda (Sun et al., ICLR 2024, section 3): a weight matters as much as it is large and its input is strong."""

from typing import Final

from torch import Tensor

from crypto.pruning.sparsity import Sparsity
from silo_agent.pruning.keep_mask import keep_by_score

STATISTIC: Final = "energies"


def score(weight: Tensor, energy: Tensor) -> Tensor:
    """|W_ij| * ||X_j||: float32 [d_out, d_in], of a weight [d_out, d_in] and its inputs' energy, float32 [d_in].

    Without tokens (an expert that none reached) all scores are 0, and the tie rule ranks by magnitude.
    """
    return weight.abs().float() * energy.sqrt()


def prune(weight: Tensor, energy: Tensor, sparsity: Sparsity) -> tuple[Tensor, None]:
    """Prune as `Method.prune` says; kept weights stay as they are."""
    return keep_by_score(score(weight, energy), weight, sparsity), None
