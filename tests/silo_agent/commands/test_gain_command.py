"""`silo-agent gain` against transformers' own loss of the model under keep masks that `silo-agent prune` writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from silo_agent.cli import cli
from support.commands import Ran, prune, run
from support.models import in_memory, tiny_llama, write_text

SHAPE = ("--pruner", "wanda", "--samples", 4, "--sequence-length", 32, "--sparsity-ratio", "0.7")


def gain(model: Path, calibration: Path, capsys: pytest.CaptureFixture[str], *more: object) -> Ran:
    return run(cli, ["gain", "--model", model, "--calibration", calibration, *SHAPE, *more], capsys)


@torch.no_grad()
def losses(model: Path, file: Path, keep_mask: Path | None) -> list[float]:
    """Nats a token of each of the five sequences after the first four."""
    pruned, tokenizer = in_memory(model), AutoTokenizer.from_pretrained(model)
    for name, keep in load_file(keep_mask).items() if keep_mask else ():
        pruned.get_parameter(name).data *= keep
    ids = torch.tensor(tokenizer(file.read_text())["input_ids"][4 * 32 : 9 * 32]).view(5, 32)
    return [float(pruned(input_ids=row[None], labels=row[None]).loss) for row in ids]


def test_figures_are_those_of_the_masks_that_prune_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = tiny_llama(tmp_path / "dense"), write_text(tmp_path / "ward.txt", 3000, seed=1)
    told = gain(model, file, capsys, "--held-out", 5, "--output", "json")
    assert (told.code, told.err) == (0, "")
    by_text = {}
    for text in ("self", file):
        masks = tmp_path / f"{Path(text).stem}.safetensors"
        assert prune(model, text, masks, capsys, *SHAPE).code == 0
        by_text[text] = np.array(losses(model, file, masks))
    dense = np.array(losses(model, file, None))
    assert told.data["sequences"] == 5
    assert told.data["perplexity"] == pytest.approx(
        {
            "dense": np.exp(dense.mean()),
            "self_calibrated": np.exp(by_text["self"].mean()),
            "own": np.exp(by_text[file].mean()),
        },
        rel=1e-4,
    )
    apart = by_text[file] - by_text["self"]
    compared = told.data["own_text"]
    assert compared["difference"] == pytest.approx(apart.mean(), abs=1e-5)
    assert compared["standard_error"] == pytest.approx(apart.std(ddof=1) / np.sqrt(5), rel=1e-2)
    assert compared["margin"] == pytest.approx(2.776 * compared["standard_error"], rel=1e-3)
    assert told.data["in_words"].endswith("Only a federation whose result beats both is worth a release.")
    table = gain(model, file, capsys, "--held-out", 5)
    assert table.code == 0
    assert told.data["in_words"] in table.out
    assert f"perplexity, self-calibrated  {told.data['perplexity']['self_calibrated']:.2f}" in table.out


def test_new_weights_are_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = tiny_llama(tmp_path / "dense"), write_text(tmp_path / "ward.txt", 3000, seed=1)
    masks = gain(model, file, capsys, "--held-out", 4, "--output", "json")
    moved = gain(model, file, capsys, "--held-out", 4, "--pruner", "sparsegpt", "--output", "json")
    assert (masks.code, moved.code) == (0, 0)
    assert moved.data["perplexity"]["dense"] == masks.data["perplexity"]["dense"]
    assert moved.data["perplexity"]["own"] != masks.data["perplexity"]["own"]


@pytest.mark.parametrize(
    ("more", "code", "problem"),
    [
        (("--pruner", "magnitude"), 4, "magnitude reads no text"),
        (("--pattern", "2:4"), 4, "--pattern says how many weights are kept"),
        (("--held-out", 1000), 4, "4 + 1000 held out are needed"),
        (("--held-out", 3), 4, "Invalid value for '--held-out'"),
    ],
)
def test_what_cannot_be_said_is_refused(
    more: tuple[object, ...], code: int, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = tiny_llama(tmp_path / "dense"), write_text(tmp_path / "ward.txt", 3000, seed=1)
    refused = gain(model, file, capsys, *more)
    assert problem in refused.err
    assert refused.code == code
