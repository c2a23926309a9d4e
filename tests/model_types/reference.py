"""What Wanda must keep, from the whole model as transformers runs it: no code of the product's, nor its names.

Every multiplication of the whole model is looked at. Where in the model a stored matrix is, is found by its values,
which are random and so all different.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROUTERS = r"(.*\.)?(gate|\w*router\w*|shared_expert_gate)(\.(layer|classifier|linear|proj|gate|wg))?\.weight"
"""What a matrix that routes tokens to experts is called."""

OTHERS = ("conv1d", "conv2d", "einsum", "grouped_mm", "_grouped_mm", "baddbmm", "mul", "__mul__")
"""What else can be done with a matrix that this reference would not understand."""

Where = tuple[str, int | None]
"""A parameter's name, and which expert's matrix of it."""


class Products(TorchFunctionMode):
    """While active, adds up the energies of what each matrix of a model is multiplied with: float64 [d_in]."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._by_storage = {tensor.untyped_storage().data_ptr(): name for name, tensor in parameters.items()}
        self._parameters = parameters
        self.energies: dict[Where, Tensor] = {}
        self.input_first: set[str] = set()
        """Parameters whose matrices were used as [d_in, d_out]."""
        self.otherwise: dict[str, str] = {}
        """What of `OTHERS` was done with a parameter."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            if called == "linear":
                self._see(args[1], args[0])
            elif called == "addmm":
                self._see(args[2].T, args[1])
            elif called in ("matmul", "__matmul__", "bmm", "mm") and min(args[0].ndim, args[1].ndim) > 1:
                self._see(args[1].transpose(-1, -2), args[0])
                self._see(args[0], args[1].transpose(-1, -2))
            elif called in OTHERS:
                flat = [leaf for arg in args for leaf in (arg if isinstance(arg, list | tuple) else [arg])]
                self.otherwise |= {self._name(leaf): called for leaf in flat if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))

    def _name(self, tensor: Tensor) -> str:
        return "" if tensor.is_meta else self._by_storage.get(tensor.untyped_storage().data_ptr(), "")

    def _see(self, weight: Tensor, inputs: Tensor) -> None:
        name = self._name(weight)
        if not name:
            return
        parameter = self._parameters[name]
        if weight.stride()[-2:] != parameter.stride()[-2:]:
            self.input_first.add(name)
        if parameter.ndim == 2:
            self._add((name, None), inputs)
        elif weight.ndim == 2:
            self._add((name, (weight.storage_offset() - parameter.storage_offset()) // parameter.stride(0)), inputs)
        else:
            for expert, of_expert in enumerate(inputs.expand(len(weight), *inputs.shape[-2:])):
                self._add((name, expert), of_expert)

    def _add(self, where: Where, inputs: Tensor) -> None:
        energy = inputs.detach().reshape(-1, inputs.shape[-1]).double().square().sum(0)
        self.energies[where] = self.energies[where] + energy if where in self.energies else energy


class Rows:
    """Finds a stored matrix among a model's: by its first row, which no other has."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._at: dict[bytes, tuple[Where, int]] = {}
        for name, tensor in parameters.items():
            for expert, matrix in enumerate(tensor) if tensor.ndim == 3 else [(None, tensor)]:
                for number, row in enumerate(matrix.detach()):
                    self._at[row.numpy().tobytes()] = (name, expert), number

    def find(self, stored: Tensor) -> tuple[Where, Tensor]:
        """Return where it is, and the rows there, which are the model's own. Raises KeyError where it is nowhere."""
        (name, expert), first = self._at[stored[0].float().numpy().tobytes()]
        matrix = self._parameters[name].data if expert is None else self._parameters[name].data[expert]
        rows = matrix[first : first + len(stored)]
        assert torch.equal(rows, stored.float()), name
        return (name, expert), rows


def keep_mask(weight: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Return Wanda's keep mask of [d_out, d_in] at half, by rows; and which weights are too near the edge to tell."""
    magnitude = weight.abs().double()
    scores = magnitude * energy.sqrt() if energy.any() else magnitude
    ordered = scores.sort(1).values
    dropped = scores.shape[1] // 2
    edge = (ordered[:, dropped - 1 : dropped] + ordered[:, dropped : dropped + 1]) / 2
    return scores > edge, (scores - edge).abs() <= 1e-3 * edge
