"""How much one lying silo can worsen what all make together, for each release kind.

Run `make bench-poisoning`; with `--write-docs` it also writes docs/poisoning.md. Silos hold docstrings that were kept
from the demo model's training; all are honest but one, which knows the model, the plan and its own text. The sums are
added up here as the aggregator adds them, and expanded by its code. Prints one JSON document.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import version
from math import exp
from pathlib import Path

import torch
from torch import Tensor

from bench.document import progress, publish
from bench.machine import facts
from bench.privacy_audit import model_and_sequences
from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.owl import owl_ratios
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.perplexity import negative_log_likelihood
from silo_agent.pruning.allocation import outlier_counts
from silo_agent.pruning.mask_expansion import expand
from silo_agent.pruning.prune import Pruned, prune_blocks
from silo_agent.pruning.relative_importance import relative_importance

SILOS, SAMPLES, HELD_OUT, RATIO = (3, 5, 10), 16, 64, "0.5"
CPU, PAGE = torch.device("cpu"), Path("docs/poisoning.md")
ENERGIES_PART = "\n## Pooled energies\n"
"""The heading of what bench.poisoned_energies writes."""

Counts = dict[str, Tensor]
"""By tensor, int32: how many silos keep each weight."""
Lie = Callable[["Votes", str], Tensor]
"""Returns what the lying silo adds to the keep counts of a tensor, int32."""


@dataclass(frozen=True)
class Votes:
    """Honest silos' keep counts, and what the lying one would have said."""

    weights: DenseWeights
    silos: int
    honest: Counts
    """Over all silos but the lying one."""
    own: Mapping[str, Tensor]
    """The true keep masks of the lying one."""
    strength: Mapping[str, Tensor]
    """By tensor, how far each weight of it is from its own threshold: |weight|, negative where it is not kept."""

    def perplexity(self, lie: Lie, held_out: Tensor) -> float:
        """Return what the expanded model has on held-out text; infinity where the aggregator sees a corrupt sum."""
        keep = {}
        for name in self.weights.prunable:
            counts = self.honest[name] + lie(self, name)
            if counts.min() < 0 or counts.max() > self.silos:
                return float("inf")
            counts, dense = counts.to(torch.uint8), self.weights.tensor(name)
            keep[name] = expand(counts, relative_importance(counts, self.silos, dense), _layer(RATIO))
        return perplexity(self.weights, held_out, keep)


def truth(votes: Votes, name: str) -> Tensor:
    """Tell the truth."""
    return votes.own[name].int()


def opposite(votes: Votes, name: str) -> Tensor:
    """Keep what it would prune, within the lanes: an honest upload's format, and a keep mask of the asked ratio."""
    return (~votes.own[name]).int()


def beyond_lanes(share: float) -> Lie:
    """Return the lie that turns the counts of the `share` of weights that are surest kept, and of those surest pruned.

    A lane is not held to 0 or 1: a silo that is sure of the others' votes can take them away, and add as many.
    """

    def lie(votes: Votes, name: str) -> Tensor:
        strength = votes.strength[name]
        ordered = strength.flatten().sort().values
        at = max(1, int(len(ordered) * share))
        kept, pruned = strength >= ordered[-at], strength <= ordered[at - 1]
        others = votes.silos - 1
        return votes.own[name].int() - kept.int() * (others + 1) + pruned.int() * (others + 1)

    return lie


LIES: Mapping[str, Lie] = {
    "the truth": truth,
    "the opposite of its keep mask": opposite,
    **{f"counts turned for {share:.1%} of the surest weights": beyond_lanes(share) for share in (0.002, 0.02, 0.1)},
}


def votes_of(weights: DenseWeights, texts: Sequence[Tensor]) -> Votes:
    """Return the votes of silos with these texts, of which the last one lies."""
    masks = [{tensor.name: tensor.keep for tensor in pruned(weights, text, Pruner.WANDA)} for text in texts]
    own = masks[-1]
    honest = {name: sum((mask[name].int() for mask in masks[:-1]), torch.tensor(0)) for name in own}
    strength = {name: torch.where(keep, 1, -1) * _distance(weights, name, keep) for name, keep in own.items()}
    return Votes(weights, len(texts), honest, own, strength)


def _distance(weights: DenseWeights, name: str, keep: Tensor) -> Tensor:
    """Return how far weights are from their row's threshold, as far as magnitudes tell: large ones far above it, small
    ones far below.
    """
    size = weights.tensor(name).abs().float()
    usual = size.mean(1, keepdim=True)
    return torch.where(keep, size / usual, usual / (size + 1e-6 * usual))


def pruned(weights: DenseWeights, text: Tensor, pruner: Pruner) -> list[Pruned]:
    """Return every prunable tensor as a silo with this text prunes it."""
    group = ComparisonGroup.ROW if pruner is Pruner.WANDA else ComparisonGroup.LAYER
    sparsity = Sparsity(Decimal(RATIO), group)
    blocks = prune_blocks(
        weights, text, pruner=pruner, sparsity=lambda _: sparsity, device=CPU, progress=lambda *_: None
    )
    return list(blocks)


def perplexity(weights: DenseWeights, held_out: Tensor, changed: Mapping[str, Tensor]) -> float:
    """Return the perplexity of a model, dense but for the tensors in `changed`."""
    total, tokens = negative_log_likelihood(weights, held_out, changed, device=CPU)
    return exp(min(total / tokens, 700))


def _layer(ratio: str) -> Sparsity:
    return Sparsity(Decimal(ratio), ComparisonGroup.LAYER)


# Weights


def averaged(weights: DenseWeights, texts: Sequence[Tensor], largest: Mapping[str, float] | None) -> dict[str, Tensor]:
    """Return the l0 averages under the expanded keep masks, of SparseGPT at silos with these texts.

    The last silo lies where there are `largest` differences by tensor: each of its kept weights differs by that much,
    up or down at random.
    """
    random = torch.Generator().manual_seed(0)
    counts: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for silo, text in enumerate(texts):
        for tensor in pruned(weights, text, Pruner.SPARSEGPT):
            dense = weights.tensor(tensor.name).double()
            change = tensor.changed.double() - dense
            if largest is not None and silo == len(texts) - 1:
                change = largest[tensor.name] * (2.0 * torch.randint(2, dense.shape, generator=random) - 1)
            counts[tensor.name] = counts.get(tensor.name, 0) + tensor.keep.int()
            changes[tensor.name] = changes.get(tensor.name, 0) + change * tensor.keep
    return {name: _expanded(weights.tensor(name), counts[name], changes[name], len(texts)) for name in counts}


def _expanded(dense: Tensor, counts: Tensor, changes: Tensor, silos: int) -> Tensor:
    weight = dense.double() + changes / counts.clamp(min=1)
    keep = expand(counts.to(torch.uint8), relative_importance(counts.to(torch.uint8), silos, weight), _layer(RATIO))
    return weight.to(dense.dtype).masked_fill(~keep, 0)


def largest_differences(weights: DenseWeights, text: Tensor) -> dict[str, float]:
    """Return by tensor the power of two that bounds how far SparseGPT moves a kept weight, as a scales round opens."""
    bounds = {}
    for tensor in pruned(weights, text, Pruner.SPARSEGPT):
        change = (tensor.changed.double() - weights.tensor(tensor.name).double()).abs() * tensor.keep
        bounds[tensor.name] = 2.0 ** float(change.max().log2().ceil())
    return bounds


# Outliers


def allocated(weights: DenseWeights, texts: Sequence[Tensor], counts: Sequence[int]) -> dict[str, Tensor]:
    """Return the expanded keep masks of Wanda, where the blocks' ratios follow from these counts of outliers."""
    sizes = [sum(weights.shape(name).numel() for name in block.prunable) for block in weights.blocks]
    ratios = owl_ratios(counts, sizes, Decimal(RATIO))
    kept: Counts = {}
    for text in texts:
        blocks = prune_blocks(
            weights,
            text,
            pruner=Pruner.WANDA,
            sparsity=lambda block: Sparsity(ratios[block.index], ComparisonGroup.ROW),
            device=CPU,
            progress=lambda *_: None,
        )
        for tensor in blocks:
            kept[tensor.name] = kept.get(tensor.name, torch.tensor(0)) + tensor.keep.int()
    keep = {}
    for block in weights.blocks:
        sparsity = Sparsity(ratios[block.index], ComparisonGroup.LAYER)
        for name in block.prunable:
            votes = kept[name].to(torch.uint8)
            keep[name] = expand(votes, relative_importance(votes, len(texts), weights.tensor(name)), sparsity)
    return keep


# Figures

Rows = list[tuple[str, str, dict[int, float]]]
"""Release kind, what the lying silo says, and the perplexity by number of silos."""


def measure(weights: DenseWeights, sequences: Tensor) -> Rows:
    """Return every row of the page."""
    held_out = sequences[:HELD_OUT]
    by_lie: dict[tuple[str, str], dict[int, float]] = {}

    def note(kind: str, lie: str, silos: int, value: float) -> None:
        by_lie.setdefault((kind, lie), {})[silos] = value
        progress(kind, silos, lie, value)

    for silos in SILOS:
        texts = sequences[HELD_OUT : HELD_OUT + silos * SAMPLES].split(SAMPLES)
        votes = votes_of(weights, texts)
        for name, lie in LIES.items():
            note("votes", name, silos, votes.perplexity(lie, held_out))
        agreed = largest_differences(weights, texts[0])
        for name, largest in (
            ("the truth", None),
            ("the largest differences of the others' scale", agreed),
            ("a scale of its own, 2^31", dict.fromkeys(agreed, 2.0**31)),
        ):
            note("weights", name, silos, perplexity(weights, held_out, averaged(weights, texts, largest)))
        counts = [outlier_counts(weights, text, device=CPU) for text in texts]
        sizes = [sum(weights.shape(name).numel() for name in block.prunable) for block in weights.blocks]
        true = [sum(block) for block in zip(*counts, strict=True)]
        lying = [sum(block) for block in zip(*counts[:-1], strict=True)]
        lying[-1] += sizes[-1]
        for name, said in (("the truth", true), ("all outliers are in the last block", lying)):
            note("outliers", name, silos, perplexity(weights, held_out, allocated(weights, texts, said)))
    return [(kind, lie, figures) for (kind, lie), figures in by_lie.items()]


def page(rows: Rows, dense: float) -> str:
    """Return docs/poisoning.md."""
    table = [
        f"| release kind | the lying silo says | {' | '.join(f'{n} silos' for n in SILOS)} |",
        "|---|---|--:|--:|--:|",
    ]
    for kind, lie, figures in rows:
        table.append(f"| {kind} | {lie} | {' | '.join(_cell(figures[silos]) for silos in SILOS)} |")
    machine, lines = facts(), "\n".join(table)
    return f"""# What one lying silo can spoil

`make bench-poisoning` measures this page; `python -m bench.poisoning --write-docs` rewrites it.

No sum can tell a lie from the truth. This page measures what one silo that lies can do to the result. The demo's model
(5 M parameters) is pruned to a sparsity ratio of {RATIO} by silos with {SAMPLES} sequences each. Figures are
perplexities on {HELD_OUT} held-out sequences; the dense model has {dense:.2f}.

{lines}

- `votes`: within its lanes a silo has one vote a weight. Here it could not worsen the model with it: the others decide,
  and ties break by importance. But lanes are not held to 0 or 1. A silo that is sure of the others' votes can take
  them away and add its own, and no check of the sum sees it. *Corrupt sum* means that it took more than there was,
  which ends the round.
- `weights`: where a silo keeps a weight, it moves the average, less so the more silos there are. It also names the
  scale of the differences, and nothing bounds that: one silo can ruin the model.
- `outliers`: a silo can move each block's sparsity ratio within 0.08 of the asked one, as far as OWL goes.
- `energies` with an epsilon: a silo that only lies about its text moves the sum of each block by at most units x clip.
  A silo that runs other code can send any words, and masking hides them. Only the length of the total is checked
  (protocol, 2.9.11): by itself such a silo can still claim what all silos together may. Without an epsilon nothing
  bounds it.
- `sampling`: nothing. The coin stays uniform as long as one silo tossed it.
- `scales`: it coarsens every difference, or ruins the model, as the row of `weights` shows.
- `evaluation`: the figures can be whatever it likes. They are no protection against a silo that also lies there.

So measure the result on text of your own before you use it. Every silo has signed what it uploaded: the transcript
keeps it, and an investigation can ask the silo to open it.

Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}.
"""


def _cell(value: float) -> str:
    if value == float("inf"):
        return "corrupt sum"
    return f"{value:.2f}" if value < 1e6 else f"{value:.0e}"


def main() -> None:
    """Measure every release kind, and print or write what came out."""
    parser = argparse.ArgumentParser(description="How much one lying silo can worsen the result.")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE}")
    given = parser.parse_args()
    weights, sequences = model_and_sequences()
    dense = perplexity(weights, sequences[:HELD_OUT], {})
    rows = measure(weights, sequences)
    if given.write_docs:
        _, heading, other_part = PAGE.read_text().partition(ENERGIES_PART)
        PAGE.write_text(page(rows, dense) + heading + other_part)
    publish({}, dense=dense, perplexity=[{"release": kind, "lie": lie, "by_silos": by} for kind, lie, by in rows])


if __name__ == "__main__":
    main()
