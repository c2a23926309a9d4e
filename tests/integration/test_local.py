"""`aggregator local` with real processes over mTLS: what comes out is what the definitions say, entry for entry."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from crypto.backends.double_masking.phases import TABLE
from crypto.names import Backend
from support.commands import local, prune
from support.importance import importance
from support.models import in_memory, tiny_llama, write_text

SHAPE = ("--samples", 4, "--sequence-length", 32, "--sparsity-ratio", "0.7")


def silos(folder: Path, count: int) -> list[Path]:
    return [write_text(folder / f"ward {index}.txt", 1200, seed=index) for index in range(count)]


def expanded(counts: Tensor, silos: int, weight: Tensor, group: str) -> Tensor:
    """Mask expansion by Python's own sort: lowest count, then the least important, then highest index goes first."""
    rows = (
        [list(range(counts.numel()))] if group == "layer" else torch.arange(counts.numel()).view(counts.shape).tolist()
    )
    votes, ranks = counts.flatten().tolist(), importance(counts, silos, weight).flatten().tolist()
    keep = torch.ones(counts.numel(), dtype=torch.bool)
    for row in rows:
        order = sorted(row, key=lambda at: (votes[at], ranks[at], -at))
        keep[order[: int(Fraction("0.7") * len(row))]] = False
    return keep.view(counts.shape)


@pytest.mark.parametrize(
    ("count", "group"),
    [
        (4, "layer"),
        (3, "row"),
        pytest.param(3, "layer", marks=pytest.mark.slow),
        *(pytest.param(count, group, marks=pytest.mark.slow) for count in (5, 17) for group in ("layer", "row")),
    ],
)
def test_counts_are_the_sum_of_the_silos_keep_masks_and_the_model_their_expansion(
    count: int, group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, files = tiny_llama(tmp_path / "dense"), silos(tmp_path, count)
    ran = local(model, files, tmp_path / "out", capsys, *SHAPE, "--comparison-group", group, "--save-counts")
    assert (ran.code, ran.err) == (0, "")
    counts = load_file(tmp_path / "out" / "keep_counts.safetensors")
    masks = []
    for index, file in enumerate(files):
        assert prune(model, file, tmp_path / f"{index}.safetensors", capsys, *SHAPE).code == 0
        masks.append(load_file(tmp_path / f"{index}.safetensors"))
    dense, sparse = load_file(model / "model.safetensors"), load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert sparse.keys() == dense.keys()
    assert counts.keys() == masks[0].keys()
    assert len(counts) == 14  # seven matrices in each of two blocks
    for name, tensor in dense.items():
        if name not in counts:
            assert torch.equal(sparse[name], tensor)
            continue
        total = torch.zeros(tensor.shape, dtype=torch.int64)
        for mask in masks:
            total += mask[name].long()
        assert torch.equal(counts[name].long(), total), name
        keep = expanded(total, count, tensor, group)
        assert torch.equal(sparse[name], torch.where(keep, tensor, torch.zeros(()))), name
        k = int(Fraction("0.7") * (tensor.numel() if group == "layer" else tensor.shape[1]))
        zeros = (sparse[name] == 0).view(1 if group == "layer" else len(tensor), -1).sum(1)
        assert set(zeros.tolist()) == {k}
    assert ran.data["survivors"] == ran.data["silos"] == sorted(f"ward-{index}" for index in range(count))


def test_secure_and_insecure_give_the_same_file_and_a_model_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, files = tiny_llama(tmp_path / "dense", dtype=torch.bfloat16, shards=True), silos(tmp_path, 3)
    secure = local(model, files, tmp_path / "secure", capsys, *SHAPE)
    plain = local(model, files, tmp_path / "plain", capsys, *SHAPE, "--backend", "insecure_plaintext")
    assert (secure.code, plain.code) == (0, 0)
    names = sorted(file.name for file in (tmp_path / "secure" / "model").iterdir())
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    for name in names:
        files = [tmp_path / run / "model" / name for run in ("secure", "plain")]
        if name == "README.md":  # the model card says how the sums were protected
            assert [backend in files[0].read_text() for backend in Backend] == [True, False]
            assert [backend in files[1].read_text() for backend in Backend] == [False, True]
        else:
            assert files[0].read_bytes() == files[1].read_bytes()
    assert secure.data["plan_digest"] != plain.data["plan_digest"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "secure" / "model")
    words = AutoTokenizer.from_pretrained(tmp_path / "secure" / "model")("a word", return_tensors="pt")
    assert loaded.generate(**words, max_new_tokens=4, do_sample=False).shape[1] > words["input_ids"].shape[1]


@pytest.mark.slow
def test_a_threshold_of_two_is_asked_for_by_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every agent is told that two honest survivors are enough; otherwise it would refuse the plan."""
    model, files = tiny_llama(tmp_path / "dense"), silos(tmp_path, 3)
    ran = local(model, files, tmp_path / "out", capsys, *SHAPE, "--threshold", 2)
    assert (ran.code, ran.err) == (0, "")
    assert ran.data["threshold"] == 2


def test_the_report_says_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, files = tiny_llama(tmp_path / "dense"), silos(tmp_path, 3)
    baseline = tmp_path / "baseline.safetensors"
    assert prune(model, files[0], baseline, capsys, *SHAPE).code == 0
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("what is\n\nwho was\n")
    asked = ("--evaluate", 3, "--candidate", f"baseline={baseline}", "--prompts", prompts)
    ran = local(model, files, tmp_path / "out", capsys, *SHAPE, *asked)
    assert ran.code == 0
    report = ran.data
    assert report["schema_version"] == 1
    assert report["release"] == "votes"
    assert report["dropped"] == {}
    assert report["sparsity_ratio"]["asked"] == "0.7"
    assert report["sparsity_ratio"]["achieved"] == pytest.approx(0.7, abs=1e-3)
    assert list(report["seconds"]) == list(TABLE)
    weights = sum(t.numel() for n, t in load_file(model / "model.safetensors").items() if n.endswith("proj.weight"))
    for traffic in report["bytes"].values():
        assert weights * 2 / 8 < traffic["up"] < weights + 40_000  # lanes of two bits, and the keys
    assert [behaviour["prompt"] for behaviour in report["behaviour"]] == ["what is", "who was"]
    assert all(behaviour["dense"] != behaviour["sparse"] for behaviour in report["behaviour"])
    perplexity = report["perplexity"]
    # The first silo's own keep mask is the baseline: one file under two names has one perplexity.
    assert perplexity["candidates"]["baseline"] == perplexity["alone"]["ward-0"]
    assert perplexity["alone_mean"] == pytest.approx(sum(perplexity["alone"].values()) / 3)
    assert perplexity["dense"] == pytest.approx(reference_perplexity(model, files), rel=1e-5)
    assert perplexity["federated"] == pytest.approx(reference_perplexity(tmp_path / "out" / "model", files), rel=1e-5)
    own = [tmp_path / f"{file.stem}.safetensors" for file in files]
    for file, keep_mask in zip(files, own, strict=True):
        assert prune(model, file, keep_mask, capsys, *SHAPE).code == 0
    assert perplexity["own"] == pytest.approx(reference_perplexity(model, files, own), rel=1e-5)
    written = tmp_path / "written.safetensors"
    assert prune(model, Path("self"), written, capsys, *SHAPE).code == 0
    nobodys = [written] * len(files)
    assert perplexity["self_calibrated"] == pytest.approx(reference_perplexity(model, files, nobodys), rel=1e-5)
    federated = np.array(reference_losses(tmp_path / "out" / "model", files))
    for name, masks in (("own", own), ("self_calibrated", nobodys)):
        apart = federated - np.array(reference_losses(model, files, masks))
        compared = report["gain"][name]
        assert compared["difference"] == pytest.approx(apart.mean(), abs=1e-5)
        assert compared["standard_error"] == pytest.approx(apart.std(ddof=1) / 3, rel=1e-2)
        assert compared["in_words"] in (tmp_path / "out" / "report.html").read_text()
    assert (report["gain"]["next_to_try"]["release"], report["gain"]["next_to_try"]["pruner"]) == ("gram", "admm")


def reference_perplexity(folder: Path, files: list[Path], keep_masks: Sequence[Path] = ()) -> float:
    return float(np.exp(np.mean(reference_losses(folder, files, keep_masks))))


@torch.no_grad()
def reference_losses(folder: Path, files: list[Path], keep_masks: Sequence[Path] = ()) -> list[float]:
    """Nats a token of the three sequences of 32 tokens after the first four, with transformers' own loss; under each
    file's own keep mask, where there are some.
    """
    model, tokenizer = in_memory(folder), AutoTokenizer.from_pretrained(folder)
    losses = []
    for at, file in enumerate(files):
        if keep_masks:
            model = in_memory(folder)
            for name, keep in load_file(keep_masks[at]).items():
                model.get_parameter(name).data *= keep
        ids = torch.tensor(tokenizer(file.read_text())["input_ids"][4 * 32 : 7 * 32]).view(3, 32)
        losses += [float(model(input_ids=row[None], labels=row[None]).loss) for row in ids]
    return losses
