"""Negative log-likelihood, against transformers' own loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model import batches
from silo_agent.model.perplexity import losses_by_sequence, negative_log_likelihood
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


def test_every_sequences_loss_is_transformers_in_their_order(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family("llama")))
    model = in_memory(tmp_path)
    expected = [losses(model, sequence[None]) for sequence in SEQUENCES]
    by_sequence = losses_by_sequence(weights, SEQUENCES, {}, device=torch.device("cpu"))
    assert by_sequence.dtype == torch.float64
    assert by_sequence.tolist() == pytest.approx(expected, rel=1e-5)
    assert max(expected) - min(expected) > 1, "sequences that differ"


@pytest.mark.clause("14.2.1")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_token_without_a_number_counts_for_700_nats(tmp_path: Path, bad: float) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family("llama", tie_word_embeddings=False)))
    name = weights.prunable[-1]  # of the last block: nothing before it is touched
    changed = weights.tensor(name).clone()
    changed[0, 0] = bad
    found = negative_log_likelihood(weights, SEQUENCES, {name: changed}, device=torch.device("cpu"))
    assert found == (700.0 * 5 * 23, 5 * 23)


@pytest.mark.clause("14.2.1")
def test_a_token_counts_for_at_most_700_nats(tmp_path: Path) -> None:
    file = tiny_model(tmp_path, family("llama", tie_word_embeddings=False)) / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] * 1000}, file, {"format": "pt"})
    total, _ = negative_log_likelihood(DenseWeights.open(tmp_path), SEQUENCES, {}, device=torch.device("cpu"))
    with torch.no_grad():
        logits = in_memory(tmp_path)(input_ids=SEQUENCES).logits[:, :-1].flatten(0, 1)
    losses = functional.cross_entropy(logits, SEQUENCES[:, 1:].flatten(), reduction="none")
    assert (losses > 700).any() and (losses < 700).any()
    assert total == pytest.approx(float(losses.clamp(max=700).sum()), rel=1e-4)


def test_new_weights_and_mixed_lengths(tmp_path: Path) -> None:
    weights = DenseWeights.open(tiny_model(tmp_path, family("llama")))
    model, name = in_memory(tmp_path), weights.prunable[-1]
    new = torch.randn(weights.shape(name), generator=torch.Generator().manual_seed(1))
    sequences = [SEQUENCES[0], SEQUENCES[1, :9], SEQUENCES[2], SEQUENCES[3, :2]]
    total, tokens = negative_log_likelihood(weights, sequences, {name: new}, device=torch.device("cpu"))
    model.get_parameter(name).data.copy_(new)
    assert tokens == 23 + 8 + 23 + 1
    assert total == pytest.approx(losses(model, sequences), rel=1e-5)
