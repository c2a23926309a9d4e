"""Published weights against one's own solution: by the error that they leave, and by their zeros."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from crypto.errors import BadAudit
from crypto.names import ComparisonGroup, ReleaseKind
from crypto.pruning.sparsity import Sparsity
from silo_agent.pruning.expansion import ExpandedTensor
from silo_agent.pruning.pruners import sparsegpt
from silo_agent.results.solved_tensors import MOST_ERROR, PublishedTogether

ROWS = Sparsity(Decimal("0.5"), ComparisonGroup.ROW)
NAME = "blocks.0.weight"
DENSE = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
INPUTS = torch.randn(50, 8, generator=torch.Generator().manual_seed(2)) @ torch.rand(
    8, 8, generator=torch.Generator().manual_seed(3)
)
GRAM = INPUTS.T @ INPUTS


def settled(
    published: Tensor,
    *,
    turned: bool = False,
    kind: ReleaseKind = ReleaseKind.GRAM,
    gram: Tensor = GRAM,
    aim: Tensor | None = None,
) -> ExpandedTensor:
    """What becomes of a tensor that is published so, where one's own solution is SparseGPT's."""
    keep, own = sparsegpt.prune(DENSE if aim is None else aim, GRAM, ROWS)
    stored: Any = (lambda tensor: tensor.T.contiguous()) if turned else (lambda tensor: tensor)
    together: Any = PublishedTogether.__new__(PublishedTogether)
    together._published = lambda _: stored(published)
    together._weights = SimpleNamespace(tensor=lambda _: stored(DENSE), input_first=lambda _: turned)
    return together.settled(ExpandedTensor(NAME, stored(keep), stored(own)), gram, ROWS, kind, aim)


def error(weight: Tensor) -> float:
    """By the definition: squared differences of the layer's outputs."""
    return float((INPUTS.double() @ (weight - DENSE).double().T).square().sum())


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", MOST_ERROR)
def test_a_solution_is_judged_by_the_error_that_it_leaves(kind: ReleaseKind, turned: bool) -> None:
    _, own = sparsegpt.prune(DENSE, GRAM, ROWS)
    accepted = settled(own, turned=turned, kind=kind)
    assert accepted.weight is not None
    assert torch.equal(accepted.weight.T if turned else accepted.weight, own)
    for share in (0.0, 0.02, 0.2, 0.5, 1.0):  # of the way back to the dense weight under the same keep mask
        other = torch.where(own == 0, 0, own + share * (DENSE - own))
        if error(other) <= 0.999 * MOST_ERROR[kind] * error(own):
            settled(other, turned=turned, kind=kind)
        elif error(other) > 1.001 * MOST_ERROR[kind] * error(own):
            with pytest.raises(BadAudit, match=f"tensor {NAME}: leaves an error of .*, above"):
                settled(other, turned=turned, kind=kind)
    assert error(torch.where(own == 0, 0, DENSE)) > 1.3 * error(own), "the last one is refused"


@pytest.mark.parametrize("turned", [False, True])
def test_a_solution_that_aims_elsewhere_is_judged_by_that(turned: bool) -> None:
    aim = DENSE + torch.randn(DENSE.shape, generator=torch.Generator().manual_seed(4))
    (_, towards_dense), (_, towards_aim) = (sparsegpt.prune(weight, GRAM, ROWS) for weight in (DENSE, aim))
    settled(towards_aim, turned=turned, aim=aim)
    with pytest.raises(BadAudit, match=f"tensor {NAME}: leaves an error of .*, above 1.01 times"):
        settled(towards_dense, turned=turned, aim=aim)


@pytest.mark.parametrize("turned", [False, True])
def test_every_group_has_its_zeros(turned: bool) -> None:
    """A row that lacks one is refused, although another has one more; more zeros are a matter of the error."""
    _, own = sparsegpt.prune(DENSE, GRAM, ROWS)
    filled = own.clone()
    filled[2, (own[2] == 0).nonzero()[0, 0]] = 1e-6
    filled[3, (own[3] != 0).nonzero()[0, 0]] = 0
    with pytest.raises(BadAudit, match=f"tensor {NAME}: a group has 3 zeros, not 4"):
        settled(filled, turned=turned)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_solves_nothing(value: float) -> None:
    _, own = sparsegpt.prune(DENSE, GRAM, ROWS)
    with pytest.raises(BadAudit, match=r"leaves an error of (nan|inf), above"):
        settled(torch.where(own == 0, own, value))


@pytest.mark.parametrize("other", [DENSE.double(), DENSE[:, :4]])
def test_another_dtype_or_shape(other: Tensor) -> None:
    with pytest.raises(BadAudit, match=f"tensor {NAME}: is torch.float"):
        settled(other)


def test_where_ones_own_solution_leaves_no_error() -> None:
    """A text without tokens asks for nothing, and whatever is published under the zeros will do."""
    unmoved = torch.where(sparsegpt.prune(DENSE, GRAM, ROWS)[0], DENSE, 0)
    assert settled(unmoved, gram=torch.zeros(8, 8)).weight is unmoved
