"""What the matrices of a block are multiplied with, whoever multiplies: a layer that is called, or a model's own code.

Some layers are never called (Mamba's `dt_proj`: its weight is multiplied directly), and experts' matrices are slices
of one parameter. So it is the multiplications of torch that are looked at, not the modules.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from torch import Tensor
from torch._C import DisableTorchFunction
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_PRODUCTS: Final = ("matmul", "bmm", "mm")


class Matrices(NamedTuple):
    """A parameter of a block: one matrix, or a stack of experts'."""

    parameter: Tensor
    """[d_out, d_in] or [experts, d_out, d_in]; with the last two the other way round where `input_first`."""
    input_first: bool
    names: dict[int | None, list[str]]
    """The prunables that lie in the parameter, by expert; under None those of a parameter without experts."""


class Products(TorchFunctionMode):
    """While active, calls `see(names, rows)` for each multiplication of rows [..., d_in] with one of the matrices."""

    def __init__(self, matrices: Sequence[Matrices], see: Callable[[Sequence[str], Tensor], None]) -> None:
        super().__init__()
        self._by_storage = {of.parameter.untyped_storage().data_ptr(): of for of in matrices}
        self._see = see
        self.used: set[str] = set()
        """Names of the matrices of each parameter that anything at all was done with."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        called = getattr(func, "__name__", "")
        if called != "__get__":  # of a tensor's shape or dtype
            with DisableTorchFunction():
                self._look(func, called.strip("_"), [*args, *(kwargs or {}).values()])
        return func(*args, **(kwargs or {}))

    def _look(self, func: Any, called: str, operands: list[Any]) -> None:
        known = [of for operand in operands if isinstance(operand, Tensor) and (of := self._matrices(operand))]
        if not known:
            return
        for of in known:
            self.used.update(*of.names.values())
        if func is functional.linear:
            self._multiplied(operands[1], operands[0])
        elif called == "addmm":
            self._multiplied(operands[2].mT, operands[1])
        elif called in _PRODUCTS and min(operands[0].ndim, operands[1].ndim) > 1:
            self._multiplied(operands[1].mT, operands[0])
            self._multiplied(operands[0], operands[1].mT)

    def _matrices(self, tensor: Tensor) -> Matrices | None:
        return None if tensor.is_meta else self._by_storage.get(tensor.untyped_storage().data_ptr())

    def _multiplied(self, weight: Tensor, rows: Tensor) -> None:
        """Show `rows` [..., d_in] if the weight, [d_out, d_in] or [experts, d_out, d_in], is one that is known."""
        of = self._matrices(weight)
        if of is None:
            return
        whole = of.parameter.mT if of.input_first else of.parameter
        if _same(weight, whole):
            if weight.ndim == 2:
                self._see(of.names[None], rows)
            else:
                for expert, rows_of_one in enumerate(rows.expand(len(whole), *rows.shape[-2:])):
                    self._see(of.names[expert], rows_of_one)
        elif whole.ndim == 3:
            expert = (weight.storage_offset() - whole.storage_offset()) // whole.stride(0)
            if _same(weight, whole[expert]):
                self._see(of.names[expert], rows)


def _same(left: Tensor, right: Tensor) -> bool:
    return (left.data_ptr(), left.shape, left.stride()) == (right.data_ptr(), right.shape, right.stride())
