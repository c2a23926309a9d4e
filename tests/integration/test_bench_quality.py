"""The published rule for ties, applied to what a run opened, and what is claimed of a table of perplexities."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import quality
from silo_agent.model.dense_weights import DenseWeights
from support.commands import local
from support.models import tiny_llama, write_text

RATIO = "0.6"


@pytest.mark.slow
def test_random_ties_differ_from_a_run_s_own_only_among_the_tied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tiny_llama(tmp_path / "dense"), tmp_path / "out"
    files = [write_text(tmp_path / f"silo-{seed}.txt", 1200, seed) for seed in range(3)]
    options = ("--samples", 4, "--sequence-length", 32, "--sparsity-ratio", RATIO)
    release = ("--release", "weights", "--pruner", "sparsegpt", "--save-transcript", "--save-counts")
    ran = local(model, files, out, capsys, *options, *release)
    assert (ran.code, ran.err) == (0, "")

    opened, weights, own = quality.opened_rounds(out), DenseWeights.open(model), DenseWeights.open(out / "model")
    one, again, other = (quality.expand_with_random_ties(opened, weights, seed) for seed in (1, 1, 2))
    differing = 0
    for name, counts in load_file(out / "keep_counts.safetensors").items():
        keep, ours = one[name] != 0, own.tensor(name) != 0
        assert (~keep).sum() == (~ours).sum() == int(float(RATIO) * keep.numel())
        threshold = counts[~ours].max()
        assert keep[counts > threshold].all()
        assert not keep[counts < threshold].any()
        both = keep & ours
        torch.testing.assert_close(one[name][both], own.tensor(name)[both], rtol=0, atol=0)
        assert torch.equal(one[name], again[name])
        differing += not torch.equal(keep, ours) and not torch.equal(one[name], other[name])
    assert differing >= len(one) - 2


GOOD = {
    quality.VOTES: [96.0],
    quality.FEDPRLLM: [100.0, 101.0],
    quality.WEIGHTS: [48.0],
    quality.FEDSPALLM: [50.0, 51.0],
    quality.ALONE_SPARSEGPT: [47.0, 50.0],
    quality.ITERATIVE: [97.0],
    quality.SCALED: [110.0],
}


@pytest.mark.parametrize(
    ("row", "found", "failing"),
    [
        (quality.VOTES, [96.0], set()),
        (quality.FEDPRLLM, [98.0], {"own: votes, ties by importance / at random, at 0.8"}),
        (
            quality.WEIGHTS,
            [49.0],
            {"own: weights, ties by importance / at random, at 0.8", "own: weights / SparseGPT, each silo alone"},
        ),
        (quality.ITERATIVE, [93.9], {"own: difference of votes, iterative, from votes"}),
        (quality.ITERATIVE, [98.1], {"own: difference of votes, iterative, from votes"}),
        (quality.SCALED, [95.0], {"own: votes / votes, weight scaling"}),
        (quality.FEDSPALLM, [47.0], {f"own: weights, ties by importance / at random{at}" for at in ("", ", at 0.8")}),
    ],
)
def test_a_claim_is_met_only_where_it_holds(row: str, found: list[float], failing: set[str]) -> None:
    made = quality.claims("own", dict.fromkeys(quality.RATIOS, GOOD) | {"0.8": GOOD | {row: found}})
    assert {name for name, claim in made.items() if not claim["met"]} == failing
