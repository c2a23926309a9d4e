"""Outlier counts against the model in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from silo_agent.model.calibration import read_sequences
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.pruning.allocation import outlier_counts
from support.models import BLOCKS, family, in_memory, tiny_model, tokenizer, write_text


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


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_outliers_of_the_dense_model(tmp_path: Path, name: str) -> None:
    folder = tiny_model(tmp_path / "model", family(name, num_hidden_layers=3), seed=4)
    file = write_text(tmp_path / "calibration.txt", 4000, seed=5)
    sequences, _ = read_sequences(file, tokenizer(), samples=7, sequence_length=64)
    counts = outlier_counts(DenseWeights.open(folder), sequences, device=torch.device("cpu"))
    assert counts == dense_counts(folder, BLOCKS[name], sequences)
    assert min(counts) > 0
