"""OWL's counts of outliers, from the whole model in memory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from support.models import in_memory


def dense_counts(folder: Path, blocks: str, sequences: Tensor) -> list[int]:
    """Scores of all layers of a block put together, by norms of the dense model's inputs."""
    model = in_memory(folder)
    layers = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear | Conv1D)}
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}

    def hook(name: str) -> Any:
        return lambda _, given: inputs[name].append(given[0].flatten(0, -2))

    for name, each in layers.items():
        each.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        model(input_ids=sequences)
    counts = []
    for index in range(len(model.get_submodule(blocks))):
        scores = []
        for name, each in layers.items():
            if name.startswith(f"{blocks}.{index}."):
                weight = each.weight.data.T if isinstance(each, Conv1D) else each.weight.data
                scores.append((weight.abs() * torch.cat(inputs[name]).norm(dim=0)).flatten())
        score = torch.cat(scores)
        counts.append(int((score > 5 * score.mean()).sum()))
    return counts
