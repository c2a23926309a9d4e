"""The published rule for ties, applied to what a run opened, and what is claimed of a table of perplexities."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import quality, ways
from silo_agent.checkpoint.dense_weights import DenseWeights
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

    opened, weights, own = ways.opened_rounds(out), DenseWeights.open(model), DenseWeights.open(out / "model")
    one, again, other = (ways.expand_with_random_ties(opened, weights, seed) for seed in (1, 1, 2))
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

    by_magnitude = ways.expand_with_ties_by_magnitude(opened, weights)
    for name, counts in load_file(out / "keep_counts.safetensors").items():
        keep, ours = by_magnitude[name] != 0, own.tensor(name)  # what only our rule keeps is in our file
        tied = counts == counts[~keep].max()
        smallest = by_magnitude[name][tied & keep].abs().min() if (tied & keep).any() else torch.inf
        assert (ours[tied & ~keep].abs() <= smallest).all()


def row(*perplexities: float) -> dict[str, list[float]]:
    return {"perplexity": [*perplexities]}


GOOD = {
    ways.VOTES: row(96),
    ways.FEDPRLLM: row(100, 101),
    ways.WEIGHTS: row(48),
    ways.FEDSPALLM: row(50, 51),
    ways.ALONE_SPARSEGPT: row(47, 50),
    ways.ITERATIVE: row(97),
    ways.SCALED: row(110),
}


@pytest.mark.parametrize(
    ("way", "perplexity", "failing"),
    [
        (ways.VOTES, 96, set()),
        (ways.FEDPRLLM, 98, {"own: votes, ties by importance / at random, at 0.8"}),
        (
            ways.WEIGHTS,
            49,
            {"own: weights, ties by importance / at random, at 0.8", "own: weights / SparseGPT, each silo alone"},
        ),
        (ways.ITERATIVE, 93.9, {"own: difference of votes, iterative, from votes"}),
        (ways.ITERATIVE, 98.1, {"own: difference of votes, iterative, from votes"}),
        (ways.SCALED, 95, {"own: votes / votes, weight scaling"}),
        (ways.FEDSPALLM, 47, {f"own: weights, ties by importance / at random{at}" for at in ("", ", at 0.8")}),
    ],
)
def test_a_claim_is_met_only_where_it_holds(way: str, perplexity: float, failing: set[str]) -> None:
    made = quality.claims("own", dict.fromkeys(quality.RATIOS, GOOD) | {"0.8": GOOD | {way: row(perplexity)}})
    assert {name for name, claim in made.items() if not claim["met"]} == failing


def test_pooled_rows_are_held_against_the_best_that_shares_nothing() -> None:
    rows = {
        ways.FEDSPALLM: row(200),
        "SparseGPT, self-text": row(150),
        "ADMM, alone": row(100, 140),
        "energies, ADMM": row(110),
        "energies": row(180),
        "gram, ADMM": row(99),
    }
    made = quality.pooled_claims({"0.7": rows, "0.8": rows})
    assert [claim["measured"] for claim in made.values()][:4] == pytest.approx(
        [99 / 200, 99 / 120, 110 / 200, 110 / 120]
    )
    assert [claim["met"] for claim in made.values()] == [True] * 4 + [True] * 4
