"""RIA, relative importance and activations (Zhang et al., "Plug-and-Play", ICLR 2024, section 3.2).

A weight matters by its share of all that its input gives and of all that its output takes, so that no channel is
pruned away whole. For n:m the paper also permutes channels, which moves weights; that is not done here.
"""

from typing import Final

from torch import Tensor

from crypto.pruning.sparsity import Sparsity
from silo_agent.pruning.keep_mask import keep_by_score
from silo_agent.pruning.relative_importance import shares

STATISTIC: Final = "energies"


def score(weight: Tensor, energy: Tensor) -> Tensor:
    """(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||^(1/2): float32 [d_out, d_in].

    `weight` is [d_out, d_in], `energy` its inputs', float32 [d_in]. A row or column of zeros has a share of 0. The
    same weights and energies have the same score on every machine.
    """
    size = weight.abs().float()
    return (shares(size, 0) + shares(size, 1)) * energy.sqrt().sqrt()  # ||X|| is the energy's root


def prune(weight: Tensor, energy: Tensor, sparsity: Sparsity) -> tuple[Tensor, None]:
    """Prune as `Method.prune` says; kept weights stay as they are."""
    return keep_by_score(score(weight, energy), weight, sparsity), None
