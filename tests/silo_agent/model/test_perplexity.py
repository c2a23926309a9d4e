"""Negative log-likelihood, against transformers' own loss."""

from pathlib import Path
from typing import Any

import pytest
import torch

from silo_agent.model import batches
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.model.perplexity import negative_log_likelihood
from support.models import family, in_memory, tiny_model

SEQUENCES = torch.randint(0, 300, (5, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", 50)  # batches of 2, 2 and 1 sequences


def losses(model: Any, sequences: Any) -> float:
    """The summed loss over all predicted tokens, by transformers' own mean over each sequence's."""
    with torch.no_grad():
        each = [model(input_ids=sequence[None], labels=sequence[None]).loss.item() for sequence in sequences]
    return sum(loss * (len(sequence) - 1) for loss, sequence in zip(each, sequences, strict=True))


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "gpt2"])
def test_is_transformers_loss(tmp_path: Path, name: str, pruned: bool) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family(name), dtype=torch.bfloat16))
    model = in_memory(tmp_path)
    generator = torch.Generator().manual_seed(1)
    keep = {key: torch.rand(weights.shape(key), generator=generator) < 0.5 for key in weights.prunable if pruned}
    total, tokens = negative_log_likelihood(weights, SEQUENCES, keep, device=torch.device("cpu"))
    for key, mask in keep.items():
        model.get_parameter(key).data *= mask
    assert tokens == 5 * 23
    assert total == pytest.approx(losses(model, SEQUENCES), rel=1e-5)


def test_new_weights_and_mixed_lengths(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family("llama")))
    model, name = in_memory(tmp_path), weights.prunable[-1]
    new = torch.randn(weights.shape(name), generator=torch.Generator().manual_seed(1))
    sequences = [SEQUENCES[0], SEQUENCES[1, :9], SEQUENCES[2], SEQUENCES[3, :2]]
    total, tokens = negative_log_likelihood(weights, sequences, {name: new}, device=torch.device("cpu"))
    model.get_parameter(name).data.copy_(new)
    assert tokens == 23 + 8 + 23 + 1
    assert total == pytest.approx(losses(model, sequences), rel=1e-5)
