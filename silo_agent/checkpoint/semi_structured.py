"""A 2:4 sparse model on sparse tensor cores: its weights as PyTorch's semi-structured tensors."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from transformers.pytorch_utils import Conv1D

from crypto.errors import ModelError

DTYPES: Final = (torch.float16, torch.bfloat16)
"""Weights' dtypes that sparse tensor cores take as 2:4; float32 they take as 1:2, and drop half of what is kept."""


def check_two_of_four(name: str, weight: Tensor) -> None:
    """Raise ModelError, naming the tensor, where 4 consecutive inputs of a [d_out, d_in] weight keep more than 2."""
    if weight.shape[-1] % 4:
        raise ModelError(f"{name}: {weight.shape[-1]} inputs are no multiple of 4", hint="it cannot be pruned to 2:4")
    excess = (weight != 0).reshape(weight.shape[0], -1, 4).sum(-1) > 2
    if too_full := int(excess.count_nonzero()):
        row, group = excess.nonzero()[0].tolist()
        raise ModelError(
            f"{name}: {too_full} of {excess.numel()} groups of 4 keep more than 2 weights; the first is row {row}, "
            f"inputs {4 * group} to {4 * group + 3}",
            hint="prune with the pattern 2:4",
        )


def convert_to_semi_structured(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Replace the weights `names` of a loaded model by semi-structured tensors, in place and for inference only.

    A converted weight takes 9/16 of the memory, and its products run on sparse tensor cores. What this device or
    PyTorch cannot multiply so stays dense and is returned: name to reason. One weight at a time is held in both forms.
    Raises ModelError, before anything is converted, where a linear layer's weight is not 2:4.
    Source: https://docs.pytorch.org/docs/stable/sparse.html, "Sparse Semi-Structured Tensors".
    """
    modules = {f"{name}.weight": module for name, module in model.named_modules()}
    linear: dict[str, nn.Linear | Conv1D] = {}
    dense: dict[str, str] = {}
    for name in names:
        module = modules.get(name)
        if isinstance(module, nn.Linear | Conv1D):
            check_two_of_four(name, _output_first(module))
            linear[name] = module
        else:
            dense[name] = "is no linear layer's weight in the loaded model, as with fused experts"
    for name, layer in linear.items():
        if obstacle := _obstacle(_output_first(layer)):
            dense[name] = obstacle
            continue
        converted = _kind().from_dense(_output_first(layer).contiguous())
        stored = converted.t() if isinstance(layer, Conv1D) else converted
        layer.weight = nn.Parameter(stored, requires_grad=False)
    return dense


def _output_first(layer: nn.Linear | Conv1D) -> Tensor:
    weight = layer.weight.detach()
    return weight.t() if isinstance(layer, Conv1D) else weight


def _kind() -> Any:
    return SparseSemiStructuredTensorCUSPARSELT if _cusparselt() else SparseSemiStructuredTensorCUTLASS


def _cusparselt() -> bool:
    return torch.backends.cusparselt.is_available()


def _obstacle(weight: Tensor) -> str | None:
    """Return why a weight [d_out, d_in] cannot be converted where it is, or None where it can."""
    if weight.dtype not in DTYPES:
        return f"is {weight.dtype}; load the model in bfloat16 or float16"
    least = _kind()._DTYPE_SHAPE_CONSTRAINTS[weight.dtype]
    if weight.shape[0] % least.sparse_min_rows or weight.shape[1] % least.sparse_min_cols:
        return (
            f"is {weight.shape[0]} x {weight.shape[1]}; the kernels take multiples of "
            f"{least.sparse_min_rows} x {least.sparse_min_cols}"
        )
    if not weight.is_cuda:
        return f"is on {weight.device}; sparse tensor cores are on CUDA devices"
    major, minor = torch.cuda.get_device_capability(weight.device)
    if major < 8 or (major > 8 and not _cusparselt()):  # PyTorch's own kernels are for 8.x alone
        return f"{weight.device} has compute capability {major}.{minor}: 8.x is needed, or more with cuSPARSELt"
    return None
