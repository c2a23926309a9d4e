"""Whether the weights of a published model solve what the opened sums ask for, where no two machines agree on bits.

A solver is hundreds of matrix products, and machines round them differently. So a tensor is not compared with one's own
solution but by what both were made for: the error that they leave in the layer's output, and the zeros in them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from crypto.errors import BadAudit
from crypto.names import AGGREGATOR, ReleaseKind
from crypto.plan import Plan
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.opened_sums.together import Together
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.keep_mask import in_groups

MOST_ERROR: Final = {ReleaseKind.GRAM: 1.01, ReleaseKind.ENERGIES: 1.25}
"""How many times the error of one's own solution a published one may leave, by the statistic that it was solved by.

A pooled Gram matrix is the same everywhere. Text that the model writes is not, where a machine rounds a probability
differently: with other text altogether the error of ADMM's solutions was up to 1.2 times as large (docs/adr/0041).
"""


class PublishedTogether(Together):
    """Takes the tensors of a published model, each checked against one's own solution, in place of that solution."""

    def __init__(
        self,
        plan: Plan,
        weights: DenseWeights,
        folder: Path,
        device: torch.device,
        progress: Callable[[str, int, int], None],
        published: Callable[[str], Tensor],
    ) -> None:
        super().__init__(plan, weights, folder, device, progress)
        self._published = published

    def settled(
        self,
        solved: ExpandedTensor,
        gram: Tensor,
        sparsity: Sparsity,
        kind: ReleaseKind,
        aim: Tensor | None = None,
    ) -> ExpandedTensor:
        """Return the published tensor. Raises BadAudit where it has too few zeros in a group, or solves badly."""
        name = solved.name
        published, dense = self._published(name), self._weights.tensor(name)
        if published.dtype != dense.dtype or published.shape != dense.shape:
            raise BadAudit(f"tensor {name}: is {published.dtype} {list(published.shape)}", party=AGGREGATOR)
        turned = self._weights.input_first(name)
        zeros = in_groups((published == 0).T if turned else published == 0, sparsity).sum(1)
        least = sparsity.prune_count(sparsity.groups(dense.T.shape if turned else dense.shape)[1])
        if int(zeros.min()) < least:
            raise BadAudit(f"tensor {name}: a group has {int(zeros.min())} zeros, not {least}", party=AGGREGATOR)
        most = MOST_ERROR[kind]
        if aim is None:
            aim = dense.T if turned else dense
        own, theirs = (_error(weight.T if turned else weight, aim, gram) for weight in (solved.changed, published))
        if not theirs <= most * own:
            raise BadAudit(
                f"tensor {name}: leaves an error of {theirs:.3g}, above {most} times the {own:.3g} of one's own",
                party=AGGREGATOR,
            )
        return replace(solved, keep=published != 0, weight=published)


def _error(weight: Tensor, aim: Tensor, gram: Tensor) -> float:
    """tr((W - A) G (W - A)^T), of weights [d_out, d_in]: the squared error in a layer's output on the text of G."""
    change = weight.to(gram.device, torch.float64) - aim.to(gram.device, torch.float64)
    return float((change @ gram.double() * change).sum())
