"""A rehearsal's model, checked by whoever holds its transcripts, the roster and the dense model."""

import json
from pathlib import Path

import pytest

from silo_agent.checkpoint.tensor_files import read_tensor_file
from silo_agent.cli import cli
from support.commands import Ran, local, run
from support.models import tiny_llama, write_text

SHAPE = ("--samples", 4, "--sequence-length", 32, "--save-transcript")
KINDS: dict[str, tuple[object, ...]] = {
    "votes": ("--evaluate", 1),
    "weights": ("--release", "weights", "--pruner", "sparsegpt", "--allocation", "owl"),
    "iterative": ("--schedule", "iterative", "--release", "weights", "--pruner", "sparsegpt", "--weight-scaling"),
    "layer sampling": ("--cohort-floor", 3, "--capacity", "ward-0=1"),
    "pattern": ("--pattern", "2:4"),
    "quantised alone": (
        "--release",
        "energies",
        "--sparsity-ratio",
        0,
        "--allocation",
        "alpha",
        "--quantise",
        8,
        "--evaluate",
        1,
    ),
    "energies": ("--release", "energies", "--pruner", "wanda"),
    "quantised": ("--release", "gram", "--pruner", "sparsegpt", "--quantise", 4),
}
ROUNDS = {
    "votes": 1,
    "weights": 3,
    "iterative": 4,
    "layer sampling": 3,
    "pattern": 1,
    "quantised alone": 2,
    "energies": 2,
    "quantised": 2,
}


def verify(out: Path, dense: Path, capsys: pytest.CaptureFixture[str], *more: object) -> Ran:
    roster = next(out.glob("transcript*/roster.yaml"))
    given = ("--roster", roster, "--model", out / "model", "--dense", dense, "--output", "json")
    return run(cli, ["verify", out, *given, *more], capsys)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "weights" else pytest.mark.slow) for kind in KINDS]
)
def test_a_model_follows_from_its_sums_and_one_that_was_altered_does_not(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, out = tiny_llama(tmp_path / "dense"), tmp_path / "out"
    silos = 4 if kind == "layer sampling" else 3
    files = [write_text(tmp_path / f"ward-{at}.txt", 1200, seed=at) for at in range(silos)]
    ran = local(dense, files, out, capsys, *SHAPE, *KINDS[kind])
    assert ran.code == 0, ran.err

    verified = verify(out, dense, capsys)
    assert (verified.code, verified.err) == (0, "")
    assert (out / "model-quantised/config.json").exists() == kind.startswith("quantised")
    assert verified.data["model"]["plan"] == ran.data["plan_digest"]
    assert verified.data["model"]["rounds"] == len(verified.data["rounds"]) == ROUNDS[kind]
    assert all(checked["recomputed"] == checked["chunks"] for checked in verified.data["rounds"])
    card = (out / "model/README.md").read_text()
    assert verified.data["model"]["dense_model"] in card
    assert f"({ran.data['sparsity_ratio']['achieved']:.4%})" in card
    assert not any(silo in card for silo in ran.data["silos"])

    weights = out / "model/model.safetensors"
    name, stored = list(read_tensor_file(weights).tensors.items())[-1]
    flip(weights, stored.start)
    verified = verify(out, dense, capsys, "--signatures-only")
    said = f"step 14, model: aggregator: {weights}: tensor {name}: is not what the opened sums make of it"
    assert (verified.code, failure(verified)) == (1, said)
    flip(weights, stored.start)
    assert verify(out, dense, capsys, "--signatures-only").code == 0

    quantised = out / "model-quantised"
    if quantised.exists():
        name = "model.layers.0.mlp.down_proj.weight"
        stored = read_tensor_file(quantised / "model.safetensors").tensors[f"{name}_packed"]
        flip(quantised / "model.safetensors", stored.start)
        verified = verify(out, dense, capsys, "--signatures-only")
        said = f"{quantised / 'model.safetensors'}: tensor {name}: is not the weight of the plain model"
        assert (verified.code, failure(verified)) == (1, f"step 14, model: aggregator: {said}")
        flip(quantised / "model.safetensors", stored.start)
    else:
        quantised.mkdir()
        verified = verify(out, dense, capsys, "--signatures-only")
        assert (verified.code, f"{quantised}: is no part of this result" in failure(verified)) == (1, True)

    other = tiny_llama(tmp_path / "other", seed=9)
    verified = verify(out, other, capsys, "--signatures-only")
    assert (verified.code, "step 13, dense model" in failure(verified)) == (4, True)


def failure(ran: Ran) -> str:
    message: str = json.loads(ran.out)["error"]["message"]
    return message


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_what_is_named_must_be_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roster = tmp_path / "roster.yaml"
    roster.write_text(f'"a": "{"0" * 64}"\n')
    half = run(cli, ["verify", tmp_path, "--roster", roster, "--model", tmp_path], capsys)
    assert (half.code, "--dense" in half.err) == (4, True)
