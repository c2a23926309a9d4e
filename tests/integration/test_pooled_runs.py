"""Whole rehearsals that pool statistics: secure as in the clear, and their models held against one's own solution."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from integration.test_verified_model import failure, verify
from silo_agent.checkpoint.tensor_files import read_tensor_file
from support.commands import local
from support.models import tiny_llama, words, write_text

pytestmark = pytest.mark.slow

SHAPE = ("--samples", 4, "--sequence-length", 32, "--sparsity-ratio", "0.6")
KINDS: dict[str, tuple[object, ...]] = {
    "one-shot": ("--release", "energies", "--pruner", "ria", "--schedule", "one-shot", "--allocation", "owl"),
    "public correlations": ("--release", "energies", "--pruner", "sparsegpt"),
    "attention": ("--release", "gram", "--pruner", "sparsegpt", "--gram", "attention"),
    "gram": ("--release", "gram", "--pruner", "admm", "--allocation", "owl"),
    "dense target": ("--release", "dense_target", "--pruner", "admm"),
}


def silos(folder: Path) -> list[Path]:
    return [write_text(folder / f"ward-{at}.txt", 1200, seed=at) for at in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_secure_and_in_the_clear_make_the_same_model(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, files = tiny_llama(tmp_path / "dense"), silos(tmp_path)
    runs = {
        backend: local(dense, files, tmp_path / backend, capsys, *SHAPE, *KINDS[kind], "--backend", backend)
        for backend in ("double_masking", "insecure_plaintext")
    }
    assert [(ran.code, ran.err) for ran in runs.values()] == [(0, "")] * 2
    secure, plain = (tmp_path / backend / "model/model.safetensors" for backend in runs)
    assert secure.read_bytes() == plain.read_bytes()
    assert runs["double_masking"].data["sparsity_ratio"]["achieved"] == pytest.approx(0.6, abs=0.02)
    assert runs["double_masking"].data["keep_counts"] == {}


def test_a_run_with_noise_promises_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three silos of four records; with so few the model is pruned by little but text that it wrote itself."""
    dense, files = tiny_llama(tmp_path / "dense"), []
    for at in range(3):
        texts = [words(200, seed=10 * at + record) for record in range(4)]
        files.append(tmp_path / f"ward-{at}.jsonl")
        files[-1].write_text("".join(json.dumps({"text": text, "unit": f"person {text[:3]}"}) + "\n" for text in texts))
    asked = (*SHAPE, "--release", "energies", "--epsilon", 2, "--save-transcript")
    ran = local(dense, files, tmp_path / "out", capsys, *asked)
    assert (ran.code, ran.err) == (0, "")
    assert ran.data["sparsity_ratio"]["achieved"] == pytest.approx(0.6, abs=0.02)
    promise = ran.data["promise"]
    assert (promise["epsilon"], promise["delta"]) == (2.0, 1e-6)
    assert (
        "added noise: each person, or else record, in their text has epsilon 2 at delta 1e-06"
        in (tmp_path / "out/report.html").read_text()
    )
    assert verify(tmp_path / "out", dense, capsys).code == 0
    again = local(dense, files, tmp_path / "again", capsys, *asked)
    models = [load_file(tmp_path / run / "model/model.safetensors") for run in ("out", "again")]
    assert again.code == 0
    assert any(not torch.equal(models[0][name], models[1][name]) for name in models[0]), "noise is drawn anew"


def test_a_run_with_noise_on_votes_says_what_of_and_how_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, files = tiny_llama(tmp_path / "dense"), silos(tmp_path)
    asked = (*SHAPE, "--release", "votes", "--vote-noise", 1, "--save-transcript", "--save-counts")
    ran = local(dense, files, tmp_path / "out", capsys, *asked)
    assert (ran.code, ran.err) == (0, "")
    assert ran.data["sparsity_ratio"]["achieved"] == pytest.approx(0.6, abs=0.02)
    assert ran.data["promise"]["epsilon"] > 1000, "of a whole keep mask next to nothing is hidden, and that is said"
    assert "for one vote of a silo" in ran.data["promise"]["in_words"]
    counts = load_file(tmp_path / "out/keep_counts.safetensors")
    assert all(int(of.max()) <= len(files) for of in counts.values())
    assert verify(tmp_path / "out", dense, capsys).code == 0


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (("--release", "gram", "--epsilon", 1), "gram has no bound on what a person changes"),
        (("--release", "energies", "--epsilon", 0), "epsilon: 0 is not above 0"),
        (("--release", "energies", "--epsilon", "nan"), "epsilon: nan is not above 0"),
        (("--release", "energies", "--epsilon", 1, "--delta", 1), "delta: 1 is not above 0, and below 1"),
        (("--release", "energies", "--delta", 0.1), "delta: is the other half of an epsilon"),
        (("--release", "votes", "--delta", 0.1), "delta: is the other half of an epsilon"),
        (("--release", "votes", "--epsilon", 1), "votes has no bound on what a person changes"),
        (("--release", "votes", "--vote-noise", 0), "vote_noise: 0 is not above 0, and below 32"),
        (("--release", "votes", "--vote-noise", 32), "vote_noise: 32 is not above 0, and below 32"),
        (("--release", "votes", "--vote-noise", 1e-9), "vote_units"),
        (("--release", "energies", "--vote-noise", 1), "vote_noise: energies sums no votes alone"),
        (("--release", "weights", "--vote-noise", 1), "vote_noise: weights sums no votes alone"),
        (("--release", "votes", "--vote-noise", 1, "--weight-scaling"), "weight_scaling: multiplies by shares"),
        (("--release", "energies", "--epsilon", 1, "--evaluate", 1), "evaluation has no noise"),
        (("--release", "energies", "--epsilon", 1, "--backend", "insecure_plaintext"), "no more than its own noise"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_one_line(
    asked: tuple[object, ...], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = local(tiny_llama(tmp_path / "dense"), silos(tmp_path), tmp_path / "out", capsys, *SHAPE, *asked)
    assert ran.code == 4
    assert problem in ran.err + ran.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["public correlations", "gram", "dense target"])
def test_a_solution_is_judged_by_its_error_and_its_zeros(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, out = tiny_llama(tmp_path / "dense"), tmp_path / "out"
    ran = local(dense, silos(tmp_path), out, capsys, *SHAPE, *KINDS[kind], "--save-transcript", "--evaluate", 1)
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.data["perplexity"]) >= {"dense", "federated"}
    assert verify(out, dense, capsys).code == 0

    file = out / "model/model.safetensors"
    name = "model.layers.1.mlp.up_proj.weight"
    weight, start = load_file(file)[name].clone(), read_tensor_file(file).tensors[name].start

    def verified_with(weight: torch.Tensor) -> str:
        content = bytearray(file.read_bytes())
        content[start : start + weight.nbytes] = weight.contiguous().numpy().tobytes()
        file.write_bytes(content)
        checked = verify(out, dense, capsys, "--signatures-only")
        return failure(checked) if checked.code else ""

    assert verified_with(weight) == ""
    assert f"tensor {name}: leaves an error of" in verified_with(weight * 3)
    filled = weight.clone()
    filled[weight == 0] = 1e-6
    assert f"tensor {name}: a group has 0 zeros" in verified_with(filled)
    assert f"tensor {name}: leaves an error of nan" in verified_with(torch.where(weight == 0, weight, torch.nan))
