"""Runs of several rounds with real processes: what each later round starts from comes over the wire and is verified."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from silo_agent.cli import cli as silo_agent
from support.commands import local, run
from support.models import tiny_llama, write_text

SHAPE = ("--samples", 2, "--sequence-length", 32)
Capture = pytest.CaptureFixture[str]


def silos(folder: Path, count: int) -> list[Path]:
    return [write_text(folder / f"{name}.txt", 900, seed=at) for at, name in enumerate("abcde"[:count])]


@pytest.mark.parametrize(
    ("asked", "rounds"),
    [
        (
            ("--pruner", "sparsegpt", "--release", "weights", "--silo-sparsity-ratio", "b=0.6"),
            [("scales", None), ("weights", None)],
        ),
        (("--schedule", "iterative", "--pattern", "2:4", "--weight-scaling"), [("votes", 0), ("votes", 1)]),
    ],
)
def test_secure_and_insecure_give_the_same_bytes(
    asked: tuple[object, ...], rounds: list[object], tmp_path: Path, capsys: Capture
) -> None:
    model, files = tiny_llama(tmp_path / "dense"), silos(tmp_path, 3)
    secure = local(model, files, tmp_path / "secure", capsys, *SHAPE, *asked, "--save-counts")
    plain = local(
        model, files, tmp_path / "plain", capsys, *SHAPE, *asked, "--save-counts", "--backend", "insecure_plaintext"
    )
    assert (secure.code, secure.err, plain.code, plain.err) == (0, "", 0, "")
    for ran in (secure, plain):
        assert [(made["release"], made["block"]) for made in ran.data["rounds"]] == rounds
    for name in ("model/model.safetensors", "keep_counts.safetensors"):
        assert (tmp_path / "secure" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    dense, sparse = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "secure" / "model"))
    changed = 0
    for name, tensor in dense.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(sparse[name], tensor)
            continue
        zeros = sparse[name] == 0
        if "2:4" in asked:
            assert set(zeros.reshape(-1, 4).sum(1).tolist()) == {2}
        else:
            assert int(zeros.sum()) == tensor.numel() // 2
        changed += int((~zeros & (sparse[name] != tensor)).sum())
    assert changed > 1000, "kept weights are averaged, or scaled"


def test_layer_sampling_end_to_end(tmp_path: Path, capsys: Capture) -> None:
    """With OWL: two blocks of one size, whose ratios are 0.08 above and below what was asked."""
    model, files = tiny_llama(tmp_path / "dense"), silos(tmp_path, 4)
    asked = ("--cohort-floor", 3, "--capacity", "b=1", "--capacity", "d=1", "--allocation", "owl")
    more = ("--save-counts", "--save-transcript", "--evaluate", 1)
    out = tmp_path / "out"
    ran = local(model, files, out, capsys, *SHAPE, *asked, *more)
    assert (ran.code, ran.err) == (0, "")
    rounds = ran.data["rounds"]
    assert [made["release"] for made in rounds] == ["sampling", "outliers", "votes", "votes"]
    assert [made["block"] for made in rounds] == [None, None, 0, 1]
    assert [len(made["cohort"]) for made in rounds] == [4, 4, 3, 3]
    assert all(made["survivors"] == made["cohort"] for made in rounds)
    assert Counter(silo for made in rounds[2:] for silo in made["cohort"]) == {"a": 2, "b": 1, "c": 2, "d": 1}
    assert ran.data["perplexity"]["alone"] == {}
    assert "alone_mean" not in ran.data["perplexity"]
    dense, sparse = (load_file(folder / "model.safetensors") for folder in (model, out / "model"))
    counts = load_file(out / "keep_counts.safetensors")
    ratios = []
    for block in range(2):
        names = [name for name in counts if name.startswith(f"model.layers.{block}.")]
        assert len(names) == 7
        found = {
            ratio
            for ratio in (Fraction("0.42"), Fraction("0.58"))
            if all(int((sparse[name] == 0).sum()) == int(ratio * dense[name].numel()) for name in names)
        }
        ratios += sorted(found)
        for name in names:
            assert {*counts[name].flatten().tolist()} == {0, 1, 2, 3}
            assert torch.equal(sparse[name], torch.where(sparse[name] == 0, 0, dense[name]))
    assert sorted(ratios) == [Fraction("0.42"), Fraction("0.58")]
    for index in range(4):
        folder = out / f"transcript-{index}"
        checked = run(silo_agent, ["verify", folder, "--roster", folder / "roster.yaml", "--output", "json"], capsys)
        assert checked.code == 0, checked.err
        assert checked.data["survivors"] == rounds[index]["cohort"]
    assert json.loads((out / "report.json").read_text()) == ran.data
    assert (out / "report.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.clause("2.1.8")
def test_a_ruinous_group_that_is_forced(tmp_path: Path, capsys: Capture) -> None:
    model, files = tiny_llama(tmp_path / "dense"), silos(tmp_path, 3)
    asked = ("--comparison-group", "column", "--sparsity-ratio", "0.7")
    refused = local(model, files, tmp_path / "out", capsys, *SHAPE, *asked)
    assert (refused.code, refused.err.count("\n")) == (4, 1)
    assert "column does not suit wanda" in refused.err
    assert not (tmp_path / "out").exists()
    ran = local(model, files, tmp_path / "out", capsys, *SHAPE, *asked, "--force-comparison-group")
    assert (ran.code, ran.err, ran.data["comparison_group"]) == (0, "", "column")
    for name, tensor in load_file(tmp_path / "out" / "model" / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            assert set((tensor == 0).sum(0).tolist()) == {int(Fraction("0.7") * len(tensor))}
