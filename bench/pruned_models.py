"""Ways to a pruned model that the quality benches compare, and how well such a model predicts held-out text."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import exp
from pathlib import Path

import torch
from torch import Tensor

from crypto.names import Allocation, Pruner
from crypto.pruning.pruners import PRUNERS
from crypto.pruning.sparsity import Pattern, Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.model.activations import BlockWalk
from silo_agent.model.calibration import read_sequences
from silo_agent.model.perplexity import negative_log_likelihood
from silo_agent.pruning.allocation import spread_sparsities
from silo_agent.pruning.prune import prune_blocks, prune_weight
from silo_agent.second_order.public_correlations import with_public_correlations

CPU = torch.device("cpu")

Changed = tuple[DenseWeights, Mapping[str, Tensor]]
"""A model, and by name keep masks or new weights; what has none is as in its files."""


@dataclass(frozen=True)
class Silos:
    """Each silo's file, the sequences that it prunes on, and those that follow."""

    files: Sequence[Path]
    calibration: Sequence[Tensor]
    held_out: Tensor
    """The held-out sequences of all silos together."""

    @property
    def pooled(self) -> Tensor:
        """The calibration sequences of all silos."""
        return torch.cat(list(self.calibration))


def read_silos(files: Iterable[Path], weights: DenseWeights, *, samples: int, length: int, held_out: int) -> Silos:
    """Read `samples` calibration sequences of `length` tokens and `held_out` more from each file."""
    read = {
        file: read_sequences(file, weights.tokenizer, samples=samples, sequence_length=length, held_out=held_out)
        for file in files
    }
    return Silos(list(read), [text for text, _ in read.values()], torch.cat([text for _, text in read.values()]))


def perplexity(model: Changed, sequences: Tensor) -> float:
    weights, changed = model
    total, tokens = negative_log_likelihood(weights, sequences, changed, device=CPU)
    return exp(total / tokens)


def prune(
    weights: DenseWeights, text: Tensor, pruner: Pruner, target: str, allocation: Allocation = Allocation.UNIFORM
) -> dict[str, Tensor]:
    """By name keep masks or new weights, as `silo-agent prune` makes them of a file of these sequences.

    `target` is a sparsity ratio, or a pattern, which no `allocation` spreads.
    """
    group = PRUNERS[pruner].own_group
    if ":" in target:
        sparsities = [Sparsity(Pattern.parse(target), group)] * len(weights.blocks)
    else:
        sparsities = spread_sparsities(weights, text, allocation, Decimal(target), group, device=CPU)
    pruned = prune_blocks(
        weights,
        text,
        pruner=pruner,
        sparsity=lambda block: sparsities[block.index],
        device=CPU,
        progress=lambda *_: None,
    )
    return {tensor.name: tensor.changed for tensor in pruned}


def prune_by_energies(
    weights: DenseWeights, text: Tensor, self_text: Tensor, pruner: Pruner, target: str
) -> dict[str, Tensor]:
    """By name the new weights that `--release energies` makes of all this text, block by block, without a run.

    The pruner solves with the text's energies and the correlations of `self_text`. `target` is as in `prune`.
    """
    changed: dict[str, Tensor] = {}
    sparsity = Sparsity(Pattern.parse(target) if ":" in target else Decimal(target), PRUNERS[pruner].own_group)
    walks = [BlockWalk(weights, sequences, device=CPU) for sequences in (text, self_text)]
    for block, _ in zip(*walks, strict=True):
        energies, grams = walks[0].energies(), walks[1].grams()
        of_block = {}
        for name in block.prunable:
            gram = with_public_correlations(energies[name], grams[name])
            of_block[name] = prune_weight(weights, name, gram, pruner, sparsity, CPU).changed
        changed |= of_block
        if block is not weights.blocks[-1]:
            for walk in walks:
                walk.advance(of_block)
    return changed


def federate(model: Path, silos: Silos, out: Path, target: str, *options: str) -> None:
    """One aggregator and a process a silo, over mTLS and secure aggregation. `target` is as in `prune`."""
    samples, length = silos.calibration[0].shape
    command = [
        *(sys.executable, "-m", "aggregator.cli", "local", "--model", str(model), "--out", str(out)),
        *(word for file in silos.files for word in ("--calibration", str(file))),
        *("--samples", str(samples), "--sequence-length", str(length), "--output", "json"),
        *("--pattern" if ":" in target else "--sparsity-ratio", target),
        *options,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
