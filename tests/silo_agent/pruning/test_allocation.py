"""Outlier counts against the model in memory, and sums that depend on no order."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.calibration import read_sequences
from silo_agent.pruning.allocation import exact_sum, outlier_count, outlier_counts
from support.models import BLOCKS, family, tiny_llama, tiny_model, tokenizer, write_text
from support.outliers import dense_counts


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_outliers_of_the_dense_model(tmp_path: Path, name: str) -> None:
    folder = tiny_model(tmp_path / "model", family(name, num_hidden_layers=3), seed=4)
    file = write_text(tmp_path / "calibration.txt", 4000, seed=5)
    sequences, _ = read_sequences(file, tokenizer(), samples=7, sequence_length=64)
    counts = outlier_counts(DenseWeights.open(folder), sequences, device=torch.device("cpu"))
    assert counts == dense_counts(folder, BLOCKS[name], sequences)
    assert min(counts) > 0


@given(st.lists(st.floats(0, width=32, allow_nan=False, allow_infinity=False), max_size=40))
def test_a_sum_of_floats_without_rounding(values: list[float]) -> None:
    """Subnormal floats and the largest ones too."""
    assert exact_sum(torch.tensor(values, dtype=torch.float32)) == sum(map(Fraction, values))


def test_a_sum_of_more_floats_than_are_added_up_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(50, 7, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("silo_agent.pruning.allocation.SLICE", 16)
    assert exact_sum(values) == sum(map(Fraction, values.flatten().tolist()))


@pytest.mark.clause("2.8.1")
def test_energies_beyond_float32_are_counted_too(tmp_path: Path) -> None:
    """An infinite score is the largest float; one that is no number is 0."""
    weights = DenseWeights.open(tiny_llama(tmp_path / "dense"))
    block = weights.blocks[0]
    energies = {name: torch.ones(weights.shape(name)[1]) for name in block.prunable}
    energies[block.prunable[0]][0] = torch.inf
    energies[block.prunable[1]][0] = torch.nan
    rows = weights.shape(block.prunable[0])[0]
    assert outlier_count(weights, block, energies=energies, device=torch.device("cpu")) == rows
