"""Whether tensors have one input where a plan says so."""

from collections.abc import Mapping

import torch
from torch import Tensor

from crypto.errors import PlanError
from crypto.plan import Plan


def check_shared(plan: Plan, index: int, statistics: Mapping[str, Tensor]) -> None:
    """Check that tensors share an input where the plan says so. Raises PlanError.

    One input has one sum on every text. Two that have the same on all silos' text do not exist in practice.
    """
    for tensor in plan.tensors(index):
        shared = tensor.shares_input_of
        if shared and tensor.name in statistics and not torch.equal(statistics[tensor.name], statistics[shared]):
            raise PlanError(f"the plan says that {tensor.name} and {shared} have one input, and here they have two")
