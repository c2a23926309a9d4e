"""How far opened keep counts tell whether a text was among the silos' calibration text.

Run `make privacy-audit`; with `--write-docs` it also writes the first part of docs/privacy-audit.md. The demo's model
is pruned by votes of silos that hold docstrings which were kept from its training. An attacker who sees the opened
counts is asked of other docstrings, and of documents of four sequences, whether a silo has them. It knows the dense
model, the plan, and text of the same kind, from which it makes the counts that it expects. Prints one JSON document.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.demo.harvest import docstrings_by_package
from bench.demo.run import LENGTH, MODEL
from bench.demo.train_model import split
from bench.document import progress, publish
from bench.machine import facts
from crypto.names import ComparisonGroup, Pruner
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.pruning.prune import prune_blocks

Setting = tuple[int, int, str]
"""How many silos, how many sequences each calibrates on, and the sparsity ratio."""

SETTINGS: Sequence[Setting] = (
    *((silos, samples, "0.5") for silos in (3, 5, 10) for samples in (4, 16, 64)),
    *((5, 16, ratio) for ratio in ("0.3", "0.7")),
)
DOCUMENT = 4  # sequences
ASKED, TRIALS = 192, 4  # sequences of each kind that the attacker is asked about
EXPECTED, USUAL = 8, 32  # silos that the attacker makes up, and sequences from which it knows what is usual
COUNTS, MODEL_ALONE = "opened counts", "dense model alone"
CPU, PAGE = torch.device("cpu"), Path("docs/privacy-audit.md")
NOISE_PART = "\n## Does noise keep what epsilon promises?\n"
"""The heading of the page's second part, which bench/one_run_audit.py writes."""

Floats = NDArray[np.float64]


class Audit:
    """The demo's model, documents that it was not trained on, and what each sequence of them does to its inputs."""

    def __init__(self) -> None:
        self.weights, self.sequences = model_and_sequences()
        self.seen = cache(self._see)

    def attack(self, setting: Setting, trial: int) -> dict[str, tuple[Floats, Floats]]:
        """Return by attack what it says of sequences that a silo has, and of sequences that none has.

        Both are in the order of their documents.
        """
        silos, samples, ratio = setting
        sizes = [silos * samples, ASKED, EXPECTED * samples]
        members, others, known = self._documents(trial)[: sum(sizes)].split(sizes)
        counts, expected = (
            keep_counts(self.weights, [self.sequences[places] for places in part.split(samples)], ratio)
            for part in (members, known)
        )
        surprise = counts / silos - expected / EXPECTED
        usual = np.stack([self.seen(index).energies for index in known[:USUAL].tolist()])
        mean, spread = usual.mean(0), usual.std(0)

        def alignment(index: int) -> float:
            """A silo's energies are sums over its sequences: a sequence that makes an input stronger than usual raises
            the scores of all its weights, whose keep counts then lie above the expected ones.
            """
            unusual = (self.seen(index).energies - mean) / np.maximum(spread, mean * 1e-6)
            return float(unusual @ surprise)

        def both(say: Callable[[int], float]) -> tuple[Floats, Floats]:
            asked, unasked = (np.array([say(index) for index in part.tolist()]) for part in (members[:ASKED], others))
            return asked, unasked

        return {COUNTS: both(alignment), MODEL_ALONE: both(lambda index: self.seen(index).log_likelihood)}

    def _documents(self, trial: int) -> Tensor:
        """Return the places of all sequences, document after document, in an order of the trial's own."""
        documents = torch.arange(len(self.sequences) // DOCUMENT * DOCUMENT).view(-1, DOCUMENT)
        return documents[torch.randperm(len(documents), generator=torch.Generator().manual_seed(trial))].flatten()

    def _see(self, index: int) -> "Seen":
        walk = BlockWalk(self.weights, self.sequences[index : index + 1], device=CPU)
        energies: dict[str, Tensor] = {}
        for _ in walk:
            energies |= walk.energies()
            walk.advance({})
        ((ids, logits),) = walk.logits()
        loss = functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:])
        inputs = torch.cat([energies[name] for name in self.weights.prunable]).double().numpy()
        return Seen(inputs, -loss.item())


@dataclass(frozen=True)
class Seen:
    """What the dense model makes of one sequence."""

    energies: Floats
    """Of each prunable tensor's inputs, tensor after tensor."""
    log_likelihood: float
    """The mean over its tokens, in nats."""


def keep_counts(weights: DenseWeights, texts: Iterable[Tensor], ratio: str) -> Floats:
    """Return for each input how many of its weights are kept, by all silos with these texts: what the sums of a votes
    round say of it.

    A text is int64 [sequences, tokens]. The inputs are those of the prunable tensors, one after the other.
    """
    sparsity, counts = Sparsity(Decimal(ratio), ComparisonGroup.ROW), []
    for text in texts:
        pruned = prune_blocks(
            weights,
            text,
            pruner=Pruner.WANDA,
            sparsity=lambda _: sparsity,
            device=CPU,
            progress=lambda *_: None,
        )
        kept = {tensor.name: tensor.keep.sum(0, dtype=torch.float64) for tensor in pruned}
        counts.append(torch.cat([kept[name] for name in weights.prunable]).numpy())
    total: Floats = np.sum(counts, axis=0)
    return total


def model_and_sequences() -> tuple[DenseWeights, Tensor]:
    """Return the demo's model, and docstrings that it was not trained on: int64 [sequences, LENGTH], shuffled by
    document.
    """
    weights = DenseWeights.open(MODEL)
    texts = [text for package in docstrings_by_package().values() for text in package]
    tokens = [token for text in split(texts)[1] for token in weights.tokenizer(text, verbose=False)["input_ids"]]
    return weights, torch.tensor(tokens[: len(tokens) // LENGTH * LENGTH]).view(-1, LENGTH)


# Figures


@dataclass(frozen=True)
class Figures:
    """How well an attack tells members from others: 0.5, 0.01 and 0.1 are no better than a coin."""

    auc: float
    tpr_at_1_percent: float
    tpr_at_10_percent: float

    @classmethod
    def of(cls, trials: Sequence[tuple[Floats, Floats]], together: int) -> "Figures":
        """Return the means over the trials, where `together` sequences in a row are asked about as one."""
        rows = []
        for pair in trials:
            members, others = (scores.reshape(-1, together).sum(1) for scores in pair)
            above = (members[:, None] > others).mean() + (members[:, None] == others).mean() / 2
            rows.append([above, *((members > np.quantile(others, 1 - rate)).mean() for rate in (0.01, 0.1))])
        return cls(*map(float, np.mean(rows, axis=0)))


def measure(audit: Audit, setting: Setting) -> dict[str, dict[str, Figures]]:
    """Return the figures by attack, of single sequences and of documents."""
    trials = [audit.attack(setting, trial) for trial in range(TRIALS)]
    return {
        attack: {
            "sequence": Figures.of([trial[attack] for trial in trials], 1),
            "document": Figures.of([trial[attack] for trial in trials], DOCUMENT),
        }
        for attack in (COUNTS, MODEL_ALONE)
    }


# The page


def markdown(measured: Mapping[Setting, Mapping[str, Mapping[str, Figures]]]) -> str:
    lines = [
        "| silos | sequences a silo | sparsity ratio | attacker sees | AUC | TPR at 1% | at 10% | AUC, document "
        "| TPR at 1% | at 10% |",
        "|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (silos, samples, ratio), attacks in measured.items():
        for attack, by_unit in attacks.items():
            cells = [f"{value:.2f}" for figures in by_unit.values() for value in astuple(figures)]
            lines.append(f"| {silos} | {samples} | {ratio} | {attack} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(measured: Mapping[Setting, Mapping[str, Mapping[str, Figures]]]) -> str:
    machine = facts()
    return f"""# What opened sums tell of membership

`make privacy-audit` measures this page, and `make privacy-audit ARGS=--write-docs` rewrites it.

A sum hides whose part is whose. It does not hide what all parts together say. This page measures how far the keep
counts that a `votes` round opens tell whether a text was among the silos' calibration text.

The demo's model (5 M parameters) is pruned with Wanda by silos that hold docstrings which were kept from its training.
The attacker sees the opened counts. It knows the dense model, the plan, and other docstrings, from which it makes the
counts that it expects. It is asked of {ASKED} sequences that a silo has (all, where there are fewer), and of {ASKED}
that none has, which are which. A sequence has {LENGTH} tokens; a document is {DOCUMENT} sequences in a row. AUC is the
chance that it believes more in a member than in another: 0.5 is a coin. TPR is the share of members that it finds when
it is wrong about 1% or 10% of the others. *Dense model alone* is the same question without the counts: how likely the
model finds the text. Means of {TRIALS} trials.

{markdown(measured)}

So the counts do tell. A text counts less the more others stand beside it: with many silos and many sequences a silo
the attacker is close to a coin for a single sequence, and with few it is not. What follows:

- Calibrate on many sequences. `least_samples` in policy.yaml holds plans to it.
- Do not calibrate on a text whose mere presence is a secret, as long as there is no noise on the sums.
- The attack is a simple one. A better one would find more; these figures are no bound.

Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}.
"""


def main() -> None:
    """Measure every setting, and print or write what came out."""
    parser = argparse.ArgumentParser(description="How far opened keep counts tell of membership.")
    parser.add_argument("--write-docs", action="store_true", help=f"write the first part of {PAGE}")
    given = parser.parse_args()
    audit, measured = Audit(), {}
    for setting in SETTINGS:
        measured[setting] = measure(audit, setting)
        progress(*setting, measured[setting][COUNTS])
    if given.write_docs:
        _, heading, other_part = PAGE.read_text().partition(NOISE_PART)
        PAGE.write_text(page(measured) + heading + other_part)
    figures = [
        {"silos": silos, "samples": samples, "sparsity_ratio": ratio, "attack": attack, "unit": unit} | asdict(found)
        for (silos, samples, ratio), attacks in measured.items()
        for attack, by_unit in attacks.items()
        for unit, found in by_unit.items()
    ]
    publish({}, setting={"trials": TRIALS, "asked": ASKED, "sequence_length": LENGTH}, membership=figures)


if __name__ == "__main__":
    main()
