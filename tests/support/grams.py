"""Weights and Gram matrices of inputs like those of language models, and the error that pruning a weight leaves."""

import torch
from torch import Tensor


def layer(outputs: int, inputs: int, dead: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and the Gram matrix of inputs that are correlated and of very different strengths."""
    generator = torch.Generator().manual_seed(inputs)
    common = torch.randn(4 * inputs, inputs // 4, generator=generator)
    x = common @ torch.randn(inputs // 4, inputs, generator=generator) / (inputs // 4) ** 0.5
    x += 0.3 * torch.randn(x.shape, generator=generator)
    x *= (0.7 * torch.randn(inputs, generator=generator)).exp()
    x[:, torch.randperm(inputs, generator=generator)[:dead]] = 0
    return torch.randn(outputs, inputs, generator=generator) * 0.02, x.T @ x


def layer_error(weight: Tensor, new: Tensor, gram: Tensor) -> float:
    """tr((W - V) G (W - V)^T) of new weights V: what is missing in the layer's output over all tokens, squared."""
    lost = (weight - new).double()
    return float((lost @ gram.double() * lost).sum())
