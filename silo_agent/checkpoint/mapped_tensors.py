"""Stored tensors as torch's, each mapped from its file: one that is let go no longer counts as the process's memory."""

from typing import Final

import torch
from torch import Tensor

from silo_agent.checkpoint.tensor_files import DTYPES, StoredTensor

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, dtype.torch_name) for name, dtype in DTYPES.items()}
"""By the name in a header."""

STORED_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""The names in a header."""


def mapped_tensor(stored: StoredTensor) -> Tensor:
    """Return the tensor, mapped privately: what is written to it stays in memory."""
    dtype = TORCH_DTYPES[stored.dtype]
    if not stored.size:  # torch does not view nothing as another dtype
        return torch.empty(stored.shape, dtype=dtype)
    return torch.from_numpy(stored.mapped()).view(dtype).view(stored.shape)


def as_integers(tensor: Tensor) -> Tensor:
    """Return the elements in row-major order, 1-D, as signed integers of as many bytes: only +0.0 is 0.

    No bit is changed, and where the tensor is contiguous nothing is copied.
    """
    return tensor.contiguous().flatten().view(TORCH_DTYPES[f"I{8 * tensor.element_size()}"])
