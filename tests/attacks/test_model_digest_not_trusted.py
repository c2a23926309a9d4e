"""A dishonest aggregator asks about another model than the silo's own, with weights chosen to compare what it likes."""

from collections.abc import Callable
from typing import Any

import pytest

from attacks.stage import flip
from crypto.errors import PlanError

pytestmark = pytest.mark.clause("2.1.5", "2.3.1")


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_one_tensor_of_another_digest(name: str, approach: Callable[..., Any]) -> None:
    silo = approach()
    tensor = next(tensor for tensor in silo.agreed.model if tensor.name == name)
    tensor.digest = flip(tensor.digest)
    silo.refuses(silo.agreed, PlanError, "model", f"{name} differs")


def test_one_tensor_more_or_less(approach: Callable[..., Any]) -> None:
    silo = approach()
    last = silo.agreed.model.pop()
    silo.refuses(silo.agreed, PlanError, f"{last.name} differs")
    silo.agreed.model.append(last)
    silo.agreed.model.add(name="z.weight", digest=bytes(32), shape=[1, 1], prunable=True)
    silo.refuses(silo.agreed, PlanError, "z.weight differs")


def test_the_same_numbers_in_another_shape(approach: Callable[..., Any]) -> None:
    silo = approach()
    tensor = next(tensor for tensor in silo.agreed.model if tensor.name.endswith("up_proj.weight"))
    tensor.shape[:] = [tensor.shape[1], tensor.shape[0]]
    silo.refuses(silo.agreed, PlanError, "shape", tensor.name)


def test_one_tensor_more_to_prune(approach: Callable[..., Any]) -> None:
    silo = approach()
    next(tensor for tensor in silo.agreed.model if tensor.name == "model.embed_tokens.weight").prunable = True
    silo.refuses(silo.agreed, PlanError, "prunes other tensors")
