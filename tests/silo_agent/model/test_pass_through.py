"""What goes from block to block, in small models of this file's own."""

from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from silo_agent.model.pass_through import PassThrough, equal_calls, unlike_a_chain

IDS = torch.arange(6).view(2, 3)


class Chain(nn.Module):
    """Three blocks; `between` gets a block's output, and returns what the next one is called with."""

    def __init__(self, between: Callable[..., tuple[Any, ...]], output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.between, self.stand_ins = between, [PassThrough(Block(output), EXTRAS) for _ in range(3)]

    def forward(self) -> None:
        hidden, *others = self.between(torch.ones(2, 3, 4), None)
        for stand_in in self.stand_ins:
            hidden, *others = self.between(stand_in(hidden, *others), IDS)


class Block(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, hidden: Tensor, *_: Any) -> Any:
        return self.output(hidden + 1)


EXTRAS: list[Any] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    EXTRAS.clear()


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


CHAINS = {
    "hidden states": (lambda output, _: (first(output),), lambda hidden: hidden),
    "tuples": (lambda output, _: (first(output),), lambda hidden: (hidden, hidden * 2)),
    "text": (lambda output, _: (first(output), IDS), lambda hidden: hidden),
    "an object to write to": (lambda output, _: (first(output), UserDict()), lambda hidden: hidden),
}
OTHERS = {
    "halved": (lambda output, _: (first(output) / 2,), lambda hidden: hidden, "it changes hidden states between"),
    "more": (
        lambda output, _: (output[0], output[1]) if isinstance(output, tuple) else (output, None),
        lambda hidden: (hidden, hidden * 2),
        "its blocks hand on more than hidden states",
    ),
    "derived": (
        lambda output, _: (first(output), first(output).mean()),
        lambda hidden: hidden,
        "its blocks hand on more than hidden states",
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain(name: str) -> None:
    model = Chain(*CHAINS[name])
    assert unlike_a_chain(model.stand_ins, model) is None
    assert all(stand_in.given is None and not stand_in.returns_extras for stand_in in model.stand_ins)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_chain(name: str) -> None:
    between, output, why = OTHERS[name]
    model = Chain(between, output)
    assert (unlike_a_chain(model.stand_ins, model) or "").startswith(why)


def test_blocks_that_run_twice_or_never() -> None:
    model = Chain(*CHAINS["text"])
    assert "once" in (unlike_a_chain(model.stand_ins, lambda: (model(), model())) or "")
    assert "once" in (unlike_a_chain([*model.stand_ins, PassThrough(nn.Identity(), EXTRAS)], model) or "")


def test_equal_calls() -> None:
    call = (IDS, {"scale": 2.0, "name": None})
    assert equal_calls(call, (IDS.clone(), {"scale": 2.0, "name": None}), changeable=False)
    assert not equal_calls(call, (IDS + 1, {"scale": 2.0, "name": None}), changeable=True)
    assert not equal_calls(call, (IDS, {"scale": 2.5, "name": None}), changeable=True)
    for answer in (False, True):
        assert equal_calls(UserDict(), UserDict(), changeable=answer) == answer
