"""A whole model that can be called, though only one block of it need fit into memory."""

from typing import Any

import torch
from torch import nn

from silo_agent.checkpoint.dense_weights import DenseWeights


def streamed_model(weights: DenseWeights, device: torch.device) -> Any:
    """Return the model, ready to be called.

    On the CPU each block is read from its files for its turn, and computes in float32. On another device the whole
    model lies there, in the stored dtype: to bring a block there for each token would take far longer than its work.
    """
    model = weights.skeleton()
    if device.type != "cpu":
        weights.load(model, "", device, weights.dtype(weights.prunable[0]))
        return model
    slots = model.get_submodule(weights.blocks[0].prefix.rpartition(".")[0])
    blocks = list(slots)
    for block in weights.blocks:
        slots[block.index] = nn.Identity()
    weights.load(model, "", device, torch.float32)
    for block, module in zip(weights.blocks, blocks, strict=True):
        slots[block.index] = module
        module.register_forward_pre_hook(
            lambda module, _, prefix=block.prefix: weights.load(module, prefix, device, torch.float32)
        )
        module.register_forward_hook(lambda module, *_: weights.release(module))
    return model
