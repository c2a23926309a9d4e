"""Negative log-likelihood, against transformers' own loss."""

from pathlib import Path

import pytest
import torch

from models import BLOCKS, family, in_memory, tiny_model
from silo_agent import activations
from silo_agent.dense_weights import DenseWeights
from silo_agent.perplexity import negative_log_likelihood

SEQUENCES = torch.randint(0, 300, (5, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_is_transformers_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pruned: bool) -> None:
    monkeypatch.setattr(activations, "TOKENS_PER_BATCH", 50)  # batches of 2, 2 and 1 sequences
    weights = DenseWeights.open(tiny_model(tmp_path, family(name), dtype=torch.bfloat16))
    model = in_memory(tmp_path)
    generator = torch.Generator().manual_seed(1)
    keep = {key: torch.rand(weights.shape(key), generator=generator) < 0.5 for key in weights.prunable if pruned}
    total, tokens = negative_log_likelihood(weights, SEQUENCES, keep, device=torch.device("cpu"))
    for key, mask in keep.items():
        model.get_parameter(key).data *= mask
    with torch.no_grad():
        losses = [model(input_ids=sequence[None], labels=sequence[None]).loss.item() for sequence in SEQUENCES]
    assert tokens == 5 * 23
    assert total == pytest.approx(sum(losses) * 23, rel=1e-5)
