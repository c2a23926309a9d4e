"""What Wanda must keep, from the whole model as transformers runs it: no code of the product's, nor its names.

Every multiplication of the whole model is looked at, block after block. Which of a block's weights a stored matrix is
is found by its values, which are random and so all different.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

ROUTERS = r"(.*\.)?(gate|router|router\.(layer|classifier|linear|proj|gate)|shared_expert_gate|wg)"
"""What a linear layer that routes tokens to experts is called, from its block on."""


class Products(TorchFunctionMode):
    """While active, adds up the energy of what each weight [rows, d_in] of a model is multiplied with, by its address:
    float64 [d_in]; and of what each expert is, of a weight [experts, rows, d_in] or [experts, d_in, rows].
    """

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self._by_storage = {tensor.untyped_storage().data_ptr(): name for name, tensor in parameters.items()}
        self._parameters = parameters
        self.energies: dict[tuple[str, int | None], Tensor] = {}
        """By parameter and expert."""
        self.other: set[str] = set()
        """Parameters that something else was done with, by `name function`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        called = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            if called == "linear":
                self._see(args[1], args[0], called)
            elif called in ("matmul", "__matmul__", "bmm", "mm", "__rmatmul__"):
                left, right = args[:2] if called != "__rmatmul__" else (args[1], args[0])
                self._see(right.transpose(-1, -2) if right.ndim > 1 else right, left, called)
                self._see(left, right.transpose(-1, -2) if right.ndim > 1 else right, called)
            elif called == "addmm":
                self._see(args[2].T, args[1], called)
            elif called in ("conv1d", "einsum", "grouped_mm", "_grouped_mm", "baddbmm", "mul", "__mul__", "conv2d"):
                for arg in args:
                    for tensor in arg if isinstance(arg, list | tuple) else (arg,):
                        if isinstance(tensor, Tensor) and (name := self._name(tensor)):
                            self.other.add(f"{name} {called}")
        return output

    def _name(self, tensor: Tensor) -> str | None:
        return None if tensor.is_meta else self._by_storage.get(tensor.untyped_storage().data_ptr())

    def _see(self, weight: Tensor, inputs: Tensor, called: str) -> None:
        name = self._name(weight)
        if name is None:
            return
        parameter = self._parameters[name]
        if parameter.ndim == 3 and weight.ndim == 2:
            expert = (weight.storage_offset() - parameter.storage_offset()) // parameter.stride(0)
            self._add(name, expert, inputs)
        elif parameter.ndim == 3 and weight.ndim == 3:
            inputs = inputs.expand(len(weight), *inputs.shape[-2:])
            for expert, of_expert in enumerate(inputs):
                self._add(name, expert, of_expert)
        else:
            self._add(name, None, inputs)

    def _add(self, name: str, expert: int | None, inputs: Tensor) -> None:
        energy = inputs.detach().reshape(-1, inputs.shape[-1]).double().square().sum(0)
        known = self.energies.get((name, expert))
        self.energies[name, expert] = energy if known is None else known + energy


class Rows:
    """Finds a stored matrix among a model's weights: by its first row, which no other has."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self._at: dict[bytes, tuple[str, int | None, bool]] = {}
        for name, tensor in parameters.items():
            for expert, matrix in enumerate(tensor) if tensor.ndim == 3 else [(None, tensor)]:
                for input_first in (False, True):
                    for row in (matrix.T if input_first else matrix).contiguous():
                        self._at.setdefault(_bytes(row), (name, expert, input_first))

    def find(self, stored: Tensor) -> tuple[str, int | None, bool] | None:
        """Return the parameter, the expert, and whether the rows of `stored` lie in columns."""
        return self._at.get(_bytes(stored[0].float().contiguous()))


def _bytes(row: Tensor) -> bytes:
    return row.detach().float().numpy().tobytes()


def keep_mask(weight: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Return Wanda's keep mask of [d_out, d_in] at half, by rows; and which weights are too near the edge to tell."""
    magnitude = weight.abs().double()
    scores = magnitude * energy.sqrt() if energy.any() else magnitude
    ordered = scores.sort(1).values
    dropped = scores.shape[1] // 2
    edge = (ordered[:, dropped - 1 : dropped] + ordered[:, dropped : dropped + 1]) / 2
    return scores > edge, (scores - edge).abs() <= 1e-3 * edge + 1e-12
