"""Whoever multiplies, the rows are shown, and only to the matrix that they are multiplied with."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from silo_agent.model.products import Matrices, Products

ROWS = torch.arange(2 * 3 * 5.0).view(2, 3, 5)


def shown(matrices: Matrices, run: object) -> tuple[list[tuple[list[str], Tensor]], set[str]]:
    seen: list[tuple[list[str], Tensor]] = []
    with torch.no_grad(), Products([matrices], lambda names, rows: seen.append((list(names), rows))) as products:
        assert callable(run)
        run()
    return seen, products.used


def one(parameter: Tensor, *, input_first: bool = False) -> Matrices:
    return Matrices(parameter, input_first, {None: ["w"]})


@pytest.mark.parametrize("how", ["layer", "matmul", "left of matmul", "operator", "square"])
def test_a_matrix(how: str) -> None:
    layer = nn.Linear(5, 5 if how == "square" else 4)
    weight = layer.weight
    run = {
        "layer": lambda: layer(ROWS),
        "square": lambda: layer(ROWS),
        "matmul": lambda: torch.matmul(ROWS, weight.T),
        "left of matmul": lambda: torch.matmul(weight, ROWS.transpose(1, 2)),
        "operator": lambda: ROWS @ weight.T,
    }[how]
    ((names, rows),), used = shown(one(weight), run)
    assert names == ["w"] and torch.equal(rows, ROWS) and used == {"w"}


def test_a_matrix_with_inputs_first() -> None:
    layer = Conv1D(4, 5)
    ((names, rows),), _ = shown(one(layer.weight, input_first=True), lambda: layer(ROWS))
    assert names == ["w"] and torch.equal(rows, ROWS.flatten(0, 1))


@pytest.mark.parametrize("input_first", [False, True])
def test_a_stack_of_experts(input_first: bool) -> None:
    stack = nn.Parameter(torch.randn(2, 5, 5))  # square: only how it is used tells
    matrices = Matrices(stack, input_first, {0: ["first"], 1: ["second"]})

    def alone() -> None:
        ROWS[0] @ stack[1] if input_first else functional.linear(ROWS[0], stack[1])

    ((names, rows),), used = shown(matrices, alone)
    assert names == ["second"] and torch.equal(rows, ROWS[0]) and used == {"first", "second"}
    seen, _ = shown(matrices, lambda: torch.bmm(ROWS, stack if input_first else stack.mT))
    assert [names for names, _ in seen] == [["first"], ["second"]]
    assert all(torch.equal(rows, expected) for (_, rows), expected in zip(seen, ROWS, strict=True))
    seen, used = shown(matrices, lambda: torch.bmm(ROWS, stack.mT if input_first else stack))
    assert (seen, used) == ([], {"first", "second"})  # the other way round it is another matrix


@pytest.mark.parametrize(
    "run",
    [
        lambda weight: torch.einsum("btd,od->bto", ROWS, weight),
        lambda weight: functional.linear(ROWS[..., :3], weight[:, :3]),
        lambda weight: weight * 2,
    ],
)
def test_another_use_is_known_but_not_shown(run: object) -> None:
    weight = nn.Parameter(torch.randn(4, 5))
    assert callable(run)
    assert shown(one(weight), lambda: run(weight)) == ([], {"w"})


def test_looking_at_its_shape_is_no_use() -> None:
    weight = nn.Parameter(torch.randn(4, 5))
    assert shown(one(weight), lambda: (weight.shape, weight.dtype)) == ([], set())
