"""Wrong input gets one clear line and its exit code, and leaves nothing behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from support.commands import local, prune
from support.models import tiny_llama, write_text

SHAPE = ("--samples", 4, "--sequence-length", 32)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "dense")


@pytest.fixture
def silos(tmp_path: Path) -> list[Path]:
    return [write_text(tmp_path / f"{name}.txt", 900, seed=at) for at, name in enumerate(["a", "b", "c"])]


def refused(ran: object, out: Path, *words: str) -> None:
    code, stdout, stderr = ran.code, ran.out, ran.err  # type: ignore[attr-defined]
    assert code == 4, stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    for word in words:
        assert word in stderr
    if stdout:
        assert json.loads(stdout)["status"] == "failed"
    assert not out.exists()
    assert not list(out.parent.glob(".*")), "nothing half-written"


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def not_causal(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"], "model_type": "bert"}))


def larger_tokenizer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:100].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "dense"),
    "truncated": (truncate, "model.safetensors"),
    "not a causal language model": (not_causal, "causal"),
    "a tokenizer that does not fit": (larger_tokenizer, "tokenizer"),
    "no tokenizer": (
        lambda folder: [(folder / f).unlink() for f in ("tokenizer.json", "tokenizer_config.json")],
        "tokenizer",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_model_folder(case: str, model: Path, silos: list[Path], tmp_path: Path, capsys: Capture) -> None:
    damage, word = MODELS[case]
    damage(model)
    refused(local(model, silos, tmp_path / "out", capsys, *SHAPE), tmp_path / "out", str(model), word)
    refused(prune(model, silos[0], tmp_path / "out", capsys, *SHAPE), tmp_path / "out", str(model), word)


TEXTS = {
    "empty": ("x.txt", b"", "x.txt"),
    "too short": ("x.txt", b"a few words only", "whole sequences"),
    "invalid UTF-8": ("x.txt", b"one line\nand \xff another\n", "line 2"),
    "invalid JSON": ("x.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2"),
    "no text field": ("x.jsonl", b'{"text": "fine"}\n\n{"note": "other"}\n', "line 3"),
    "missing": ("x.txt", None, "x.txt"),
    "an unknown kind of file": ("x.pdf", b"%PDF", ".txt"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_calibration_file(case: str, model: Path, silos: list[Path], tmp_path: Path, capsys: Capture) -> None:
    name, content, word = TEXTS[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    files = [*silos, tmp_path / name]
    refused(local(model, files, tmp_path / "out", capsys, *SHAPE), tmp_path / "out", name, word)
    refused(prune(model, files[-1], tmp_path / "out", capsys, *SHAPE), tmp_path / "out", name, word)


@pytest.mark.parametrize("ratio", ["1", "-0.1", "1.5", "nan", "half", ""])
def test_ratio_outside_its_range(ratio: str, model: Path, silos: list[Path], tmp_path: Path, capsys: Capture) -> None:
    asked = (*SHAPE, "--sparsity-ratio", ratio)
    refused(local(model, silos, tmp_path / "out", capsys, *asked), tmp_path / "out", "sparsity ratio")
    refused(prune(model, silos[0], tmp_path / "out", capsys, *asked), tmp_path / "out", "sparsity ratio")


OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "unknown pruner": (("--pruner", "scissors"), "wanda"),
    "unknown release": (("--release", "secrets"), "votes"),
    "unknown backend": (("--backend", "none"), "double_masking"),
    "unknown comparison group": (("--comparison-group", "model"), "layer"),
    "ruinous comparison group": (("--comparison-group", "column"), "column"),
    "ruinous comparison group of another pruner": (
        ("--pruner", "sparsegpt", "--comparison-group", "row"),
        "row does not suit sparsegpt",
    ),
    "force where none is needed": (("--force-comparison-group",), "needs no force"),
    "a pattern and a ratio": (("--pattern", "2:4", "--sparsity-ratio", "0.5"), "--pattern"),
    "a pattern that is none": (("--pattern", "4:2"), "4:2"),
    "a pattern that does not divide the inputs": (("--pattern", "1:5"), "1:5"),
    "unknown schedule": (("--schedule", "never"), "one-shot"),
    "weights that no pruner changes": (
        ("--release", "weights", "--pruner", "wanda"),
        "wanda leaves kept weights as they are",
    ),
    "a capacity that is no number": (("--cohort-floor", 3, "--capacity", "a=x"), "SILO=NUMBER"),
    "a capacity of nobody": (("--cohort-floor", 3, "--capacity", "z=1"), "z is no silo"),
    "capacities that leave a block to two": (("--cohort-floor", 3, "--capacity", "a=1"), "capacity: 5 blocks in all"),
    "a capacity without layer sampling": (("--capacity", "a=1"), "no cohort_floor"),
    "a ratio of a silo that is none": (("--silo-sparsity-ratio", "a=2"), "sparsity ratio"),
    "threshold too low": (("--threshold", 1), "threshold"),
    "threshold negative": (("--threshold", -2), "threshold"),
    "threshold above the silos": (("--threshold", 4), "threshold"),
    "no samples": (("--samples", 0), "--samples"),
    "sequences longer than the model's positions": (("--sequence-length", 4096), "positions"),
    "unknown option": (("--fast",), "--fast"),
    "a candidate without evaluation": (("--candidate", "x=y"), "--evaluate"),
    "a candidate with a name that is taken": (("--evaluate", 1, "--candidate", "dense=x"), "taken"),
    "a candidate that is no keep mask": (
        ("--evaluate", 1, "--candidate", f"x={__file__}"),
        "holds no keep masks or weights",
    ),
    "a file of prompts that is not there": (("--prompts", "nowhere.txt"), "nowhere.txt"),
    "a device that does not exist": (("--device", "quantum"), "device"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_option(case: str, model: Path, silos: list[Path], tmp_path: Path, capsys: Capture) -> None:
    options, word = OPTIONS[case]
    refused(local(model, silos, tmp_path / "out", capsys, *SHAPE, *options), tmp_path / "out", word)


def test_fewer_than_three_silos(model: Path, silos: list[Path], tmp_path: Path, capsys: Capture) -> None:
    refused(local(model, silos[:2], tmp_path / "out", capsys, *SHAPE), tmp_path / "out", "2 silos given", "3 to 200")


def test_output_folder_that_is_not_empty(model: Path, silos: list[Path], tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    ran = local(model, silos, out, capsys, *SHAPE)
    assert (ran.code, ran.err.count("\n")) == (4, 1)
    assert "not an empty folder" in ran.err
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [("mine", "precious")]


def test_keep_mask_file_that_exists(model: Path, silos: list[Path], tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_text("precious")
    ran = prune(model, silos[0], out, capsys, *SHAPE)
    assert (ran.code, out.read_text()) == (4, "precious")
    assert "exists" in ran.err


def test_no_command_and_help(capsys: Capture) -> None:
    from aggregator.cli import cli as aggregator
    from silo_agent.cli import cli as silo_agent
    from support.commands import run

    for command in (aggregator, silo_agent):
        assert run(command, ["--help"], capsys).code == 0
        assert run(command, ["nonsense"], capsys).code == 4
