"""Every model family through `aggregator local`, with real processes: minutes, so `make test-families` runs it."""

from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from silo_agent.checkpoint.dense_weights import DenseWeights
from support.commands import local
from support.models import BLOCKS, STACKED, family, tiny_model, write_text

pytestmark = pytest.mark.minutes


@pytest.mark.parametrize("name", [*BLOCKS, *STACKED])
def test_a_family_is_pruned_federated_reloaded_and_writes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "dense", family(name), seed=3, dtype=torch.bfloat16)
    files = [write_text(tmp_path / f"ward-{index}.txt", 1500, seed=index) for index in range(3)]
    options = ("--samples", 4, "--sequence-length", 32, "--sparsity-ratio", "0.6", "--schedule", "iterative")
    ran = local(model, files, tmp_path / "out", capsys, *options)
    assert (ran.code, ran.err) == (0, "")
    sparse = DenseWeights.open(tmp_path / "out" / "model")
    for tensor in sparse.prunable:
        found = sparse.tensor(tensor)
        assert (found == 0).sum() == floor(Fraction("0.6") * found.numel()), tensor
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    written = loaded.generate(torch.tensor([[0, 7, 11]]), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert written.shape == (1, 9)
