"""Mask expansion: from how many silos kept each weight to one keep mask of the planned sparsity ratio."""

import torch
from torch import Tensor

from crypto.pruning.sparsity import Sparsity
from silo_agent.pruning.keep_mask import keep_by_score


def expand(keep_counts: Tensor, importance: Tensor, sparsity: Sparsity) -> Tensor:
    """Keep mask (bool, [d_out, d_in]) with exactly k zeros in every group: floor(ratio * group size), or m - n.

    `keep_counts` is an unsigned integer tensor [d_out, d_in], `importance` (`relative_importance`) any float, not
    negative. The lowest keep counts are zeroed first; a tie zeroes the less important, then the higher index. An n:m
    pattern is kept by each m-group's top counts (the union of the silos' keep masks would not be n:m).

    This is the server's top-k of FedPrLLM (arXiv 2505.13547), and the adaptive mask expansion of FedSpaLLM (arXiv
    2410.14852, section 4.2, equations 6 and 7) for any group, made exact. It differs in three ways:
    - k is a floor in decimal arithmetic, as at the silos; FedSpaLLM's is a ceiling.
    - Ties have one answer on every machine; FedPrLLM breaks them at random or by index, FedSpaLLM leaves them open.
    - FedSpaLLM only adds zeros to the unanimous ones (count 0), so more than k of them overshoot the sparsity ratio.
      Here k holds both ways: of u > k unanimous zeros, the u - k most important are kept although no silo kept them.
      Silos that zero k per the same group never have u > k, and with u = k all agree and their keep mask is the result.
      Where every silo kept more than the group may keep, the least important of those are zeroed too.
    Raises PlanError where a pattern does not divide d_in, ValueError for a NaN.
    """
    # torch sorts and compares few of its unsigned types
    signed = torch.int64 if keep_counts.dtype.itemsize > 2 else torch.int32
    return keep_by_score(keep_counts.to(signed), importance, sparsity)
