"""How weights are chosen and, by some, changed: one algorithm a file, named as in `crypto.names.Pruner`.

A pruner's module is a `Method`. Besides, those that only rank weights have a `score(weight, statistic)`.
"""

from importlib import import_module
from typing import Any, Literal, Protocol

from torch import Tensor

from crypto.names import Pruner
from crypto.pruning.sparsity import Sparsity

Statistic = Literal["energies", "grams"]


class Method(Protocol):
    """One way of pruning a single weight matrix."""

    @property
    def STATISTIC(self) -> Statistic | None:  # noqa: N802 - a module's constant
        """What it knows of a matrix's inputs X [tokens, d_in], summed over tokens, and so over silos.

        `energies` are the sums of squares, float32 [d_in]; `grams` X^T X, float32 [d_in, d_in].
        """

    def prune(self, weight: Tensor, statistic: Any, sparsity: Sparsity) -> tuple[Tensor, Tensor | None]:
        """Return the keep mask, bool, and where kept weights change the new ones, float32: [d_out, d_in], same device.

        `weight` is [d_out, d_in] of any float, `statistic` what `STATISTIC` says (None: not looked at), both finite.
        The keep mask has exactly `sparsity.prune_count(size)` zeros in every group, the new weight zeros there. Ties
        in score break by |weight| (larger kept), then by index (lower kept). Raises PlanError where a pattern does not
        divide d_in.
        """


def method(pruner: Pruner) -> Method:
    """Return the module of a pruner."""
    module: Any = import_module(f"{__name__}.{pruner}")
    pruning: Method = module
    return pruning
