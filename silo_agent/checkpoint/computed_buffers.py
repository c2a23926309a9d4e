"""Buffers that no checkpoint holds (rotary frequencies, scaling vectors): a model computes them for itself."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crypto.errors import ModelError


def compute_buffers(folder: Path, model: Any) -> None:
    """Compute them on the CPU as `from_pretrained` does after its load; parameters on the meta device stay there.

    Raises ModelError naming `folder` where transformers leaves one as it was.
    """
    stored = model.state_dict().keys()
    names = [name for name, _ in model.named_buffers(remove_duplicate=False) if name not in stored]
    for name in names:
        owner, _, inside = name.rpartition(".")
        buffer = model.get_buffer(name)
        setattr(model.get_submodule(owner), inside, torch.full_like(buffer, _nothing(buffer), device="cpu"))
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # as if loaded
    with torch.no_grad():
        model.initialize_weights()
    for name in names:
        buffer = model.get_buffer(name)
        left = buffer.isnan() if buffer.is_floating_point() else buffer == _nothing(buffer)
        if buffer.dtype != torch.bool and left.any():
            raise ModelError(
                f"{folder}: {name} is in no file, and transformers does not compute it",
                hint="this kind of model is not supported",
            )


def _nothing(buffer: Tensor) -> float:
    """Return what no computed buffer of this dtype has; bool has no such value."""
    if buffer.is_floating_point():
        return math.nan
    return 0 if buffer.dtype == torch.bool else torch.iinfo(buffer.dtype).min
