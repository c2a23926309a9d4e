"""Mask expansion: from how many silos kept each weight to one keep mask of the planned sparsity ratio."""

from decimal import Decimal

from torch import Tensor

from crypto.names import ComparisonGroup
from silo_agent.keep_mask import keep_by_score


def expand(keep_counts: Tensor, dense_weight: Tensor, sparsity_ratio: Decimal, group: ComparisonGroup) -> Tensor:
    """Keep mask (bool, [d_out, d_in]) with exactly k = floor(sparsity ratio * group size) zeros in every group.

    `keep_counts` is an unsigned integer tensor [d_out, d_in], `dense_weight` the matrix it is about. The lowest keep
    counts are zeroed first; a tie zeroes the smaller |dense weight|, then the higher index.

    This is the server's top-k of FedPrLLM (arXiv 2505.13547), and the adaptive mask expansion of FedSpaLLM (arXiv
    2410.14852, section 4.2, equations 6 and 7) for any group, made exact. It differs in three ways:
    - k is a floor in decimal arithmetic, as at the silos; FedSpaLLM's is a ceiling.
    - Ties have one answer on every machine; FedPrLLM breaks them at random or by index, FedSpaLLM leaves them open.
    - FedSpaLLM only adds zeros to the unanimous ones (count 0), so more than k of them overshoot the sparsity ratio.
      Here k holds both ways: of u > k unanimous zeros, the u - k with the largest |dense weight| are kept although no
      silo kept them. Silos that zero k per the same group never have u > k, and with u = k all agree and their keep
      mask is the result. Where every silo kept more than the group may keep, the smallest of those are zeroed too.
    Raises ConfigError for a sparsity ratio outside 0 to 1, ValueError for a NaN in the dense weight.
    """
    # torch sorts and compares few of its unsigned types
    return keep_by_score(keep_counts.long(), dense_weight, sparsity_ratio, group)
