"""What each way of pruning together is worth: perplexities of the demo's model, side by side, and what is claimed.

Run `make bench-quality`; with `--write-docs` it also writes docs/quality.md. Two kinds of silos: of the model's own
domain, docstrings that were held out when it was trained, and of four domains that are new to it. Every federated row
is a whole run of `aggregator local`; its rows with random ties expand the same opened sums once more, as the published
code does. Prints one JSON document, and tables on stderr; exits with 1 when a claim is not met.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from bench.demo.harvest import docstrings_by_package, harvest_silos, write_silos
from bench.demo.run import LENGTH, MODEL
from bench.demo.train_model import split
from bench.document import Claims, at_most, progress, publish
from bench.machine import facts
from bench.pruned_models import CPU, Changed, Silos, federate, perplexity, prune, read_silos
from crypto.backends.verification import verify_transcript
from crypto.names import Pruner, Suite
from crypto.pruning.sparsity import Sparsity
from silo_agent.identity.own_files import read_roster
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.pruning.mask_expansion import expand
from silo_agent.releases.silo_side import expanded_tensors
from silo_agent.rounds.committed_words import SUM_FILE, TRANSCRIPT_FILE
from silo_agent.rounds.opened_rounds import Start
from silo_agent.rounds.opened_sum import OpenedRound
from silo_agent.writing.self_text import self_sequences

RATIOS = ("0.5", "0.6", "0.7", "0.8")
OWN, SHIFTED = "own domain", "domain shift"
SAMPLES = {OWN: 16, SHIFTED: 64}  # of a silo
SELF_SAMPLES, HELD_OUT, RANDOM_SEEDS = 64, 16, (1, 2, 3)
PAGE = Path("docs/quality.md")

MAGNITUDE = "magnitude, no text"
SELF_WANDA, SELF_SPARSEGPT = "Wanda, on text that the model wrote", "SparseGPT, on text that the model wrote"
ALONE_WANDA, ALONE_SPARSEGPT = "Wanda, each silo alone", "SparseGPT, each silo alone"
FEDPRLLM, FEDSPALLM = "FedPrLLM: votes, random ties", "FedSpaLLM: weights, random ties"
VOTES, WEIGHTS = "**votes**", "**weights**"
ITERATIVE, SCALED, VOTES_OWL, WEIGHTS_OWL = "votes, iterative", "votes, weight scaling", "votes, OWL", "weights, OWL"
CENTRAL_WANDA, CENTRAL_SPARSEGPT = "Wanda, centralised", "SparseGPT, centralised"
SOLVERS = {Pruner.ADMM: "ADMM", Pruner.ALPS: "ALPS"}
ENERGIES, ENERGIES_RIA, ENERGIES_OWL = "**energies**", "energies, RIA", "energies, OWL"
ENERGIES_SPARSEGPT, GRAM, GRAM_OWL = "energies, SparseGPT", "**gram**, SparseGPT", "gram, ADMM, OWL"
KINDS = ("energies", "gram")

Rows = dict[str, list[float]]
"""By row, perplexities of the models that it is the mean of."""


def write_own_silos(folder: Path) -> list[Path]:
    """A silo a package: the docstrings that bench/demo/train_model.py held out."""
    by_package = docstrings_by_package()
    held_out = set(split([text for texts in by_package.values() for text in texts])[1])
    return write_silos(folder, {name: filter(held_out.__contains__, texts) for name, texts in by_package.items()})


# Rows


def rows(weights: DenseWeights, silos: Silos, self_text: Tensor, ratio: str, folder: Path) -> Rows:
    found: Rows = {}

    def row(name: str, *models: Changed) -> None:
        found[name] = [perplexity(model, silos.held_out) for model in models]
        progress(f"{ratio} {name}:", *found[name])

    def here(pruner: Pruner, *texts: Tensor) -> list[Changed]:
        return [(weights, prune(weights, text, pruner, ratio)) for text in texts]

    def run(name: str, *options: str) -> Path:
        out = folder / name.strip("*")
        federate(weights.folder, silos, out, ratio, *options)
        row(name, (DenseWeights.open(out / "model"), {}))
        return out

    def with_random_ties(out: Path) -> list[Changed]:
        opened = opened_rounds(out)
        return [(weights, expand_with_random_ties(opened, weights, seed)) for seed in RANDOM_SEEDS]

    row("dense", (weights, {}))
    row(MAGNITUDE, *here(Pruner.MAGNITUDE, silos.pooled))
    row(SELF_WANDA, *here(Pruner.WANDA, self_text))
    row(ALONE_WANDA, *here(Pruner.WANDA, *silos.calibration))
    row(FEDPRLLM, *with_random_ties(run(VOTES, "--save-transcript")))
    run(ITERATIVE, "--schedule", "iterative")
    run(SCALED, "--weight-scaling")
    run(VOTES_OWL, "--allocation", "owl")
    row(CENTRAL_WANDA, *here(Pruner.WANDA, silos.pooled))
    row(SELF_SPARSEGPT, *here(Pruner.SPARSEGPT, self_text))
    row(ALONE_SPARSEGPT, *here(Pruner.SPARSEGPT, *silos.calibration))
    of_weights = ("--release", "weights", "--pruner", "sparsegpt")
    row(FEDSPALLM, *with_random_ties(run(WEIGHTS, *of_weights, "--save-transcript")))
    run(WEIGHTS_OWL, *of_weights, "--allocation", "owl")
    row(CENTRAL_SPARSEGPT, *here(Pruner.SPARSEGPT, silos.pooled))
    run(ENERGIES, "--release", "energies")
    run(ENERGIES_RIA, "--release", "energies", "--pruner", "ria")
    run(ENERGIES_OWL, "--release", "energies", "--allocation", "owl")
    run(ENERGIES_SPARSEGPT, "--release", "energies", "--pruner", "sparsegpt")
    run(GRAM, "--release", "gram", "--pruner", "sparsegpt")
    for pruner, solver in SOLVERS.items():
        row(f"{solver}, on text that the model wrote", *here(pruner, self_text))
        row(f"{solver}, each silo alone", *here(pruner, *silos.calibration))
        run(f"weights, {solver}", "--release", "weights", "--pruner", pruner)
        run(f"energies, {solver}", "--release", "energies", "--pruner", pruner)
        run(f"gram, {solver}", "--release", "gram", "--pruner", pruner)
    run(GRAM_OWL, "--release", "gram", "--pruner", "admm", "--allocation", "owl")
    return found


def opened_rounds(out: Path) -> list[OpenedRound]:
    """The rounds whose transcripts lie in `out`, in order, each with its signatures verified."""
    opened = []
    for folder in sorted(out.glob("transcript*")):
        roster = read_roster(folder / "roster.yaml", Suite.DEFAULT)
        proven = verify_transcript((folder / TRANSCRIPT_FILE).read_bytes(), roster)
        opened.append(OpenedRound(proven.round, len(proven.survivors), proven.roots[""], folder / SUM_FILE))
    return opened


def expand_with_random_ties(opened: Sequence[OpenedRound], weights: DenseWeights, seed: int) -> dict[str, Tensor]:
    """What the last round makes of each tensor when weights of one keep count are zeroed in random order."""
    random = torch.Generator().manual_seed(seed)

    def at_random(keep_counts: Tensor, importance: Tensor, sparsity: Sparsity) -> Tensor:
        return expand(keep_counts, torch.rand(importance.shape, generator=random), sparsity)

    with patch("silo_agent.pruning.expansion.expand", at_random):
        tensors = expanded_tensors(Start(opened[0].round.plan, opened), opened[-1], weights)
        return {tensor.name: tensor.changed for tensor in tensors}


# Claims


def claims(domain: str, table: Mapping[str, Rows]) -> Claims:
    """What the papers found and what this repository adds, of one kind of silos. `table` is by sparsity ratio."""

    def quotients(row: str, other: str) -> dict[str, float]:
        return {ratio: fmean(found[row]) / fmean(found[other]) for ratio, found in table.items()}

    made: Claims = {}
    for ours, published in ((VOTES, FEDPRLLM), (WEIGHTS, FEDSPALLM)):
        name, against = f"{domain}: {ours.strip('*')}, ties by importance / at random", quotients(ours, published)
        made[name] = at_most_everywhere(against, 1)
        made[f"{name}, at {RATIOS[-1]}"] = at_most(against[RATIOS[-1]], 0.97)
    made[f"{domain}: weights / SparseGPT, each silo alone"] = at_most_everywhere(quotients(WEIGHTS, ALONE_SPARSEGPT), 1)
    apart = {ratio: abs(found - 1) for ratio, found in quotients(ITERATIVE, VOTES).items()}
    made[f"{domain}: difference of votes, iterative, from votes"] = at_most_everywhere(apart, 0.02)
    made[f"{domain}: votes / votes, weight scaling"] = at_most_everywhere(quotients(VOTES, SCALED), 1)
    return made


BELOW = {"0.7": (0.93, 0.94, 0.96, 0.98), "0.8": (0.80, 0.88, 0.90, 0.96)}
"""By sparsity ratio, what the best pooled row may have of FedSpaLLM's rule and of the best row that shares nothing, and
then the best row of pooled energies."""


def pooled_claims(table: Mapping[str, Rows]) -> Claims:
    """What pooled statistics are worth beside votes of weights, and beside sharing nothing, under a domain shift."""
    made: Claims = {}
    for ratio, targets in BELOW.items():
        if ratio not in table:
            continue
        found = {name: fmean(perplexities) for name, perplexities in table[ratio].items()}
        nothing = min(found[name] for name in found if "that the model wrote" in name or "alone" in name)
        pooled = [min(found[name] for name in found if name.strip("*").startswith(kind)) for kind in KINDS]
        quotients = [best / other for best in (min(pooled), pooled[0]) for other in (found[FEDSPALLM], nothing)]
        rows = ("pooled / FedSpaLLM", "pooled / nothing shared", "energies / FedSpaLLM", "energies / nothing shared")
        for row, quotient, target in zip(rows, quotients, targets, strict=True):
            made[f"{SHIFTED}: best of {row}, at {ratio}"] = at_most(quotient, target)
    return made


def at_most_everywhere(measured: Mapping[str, float], target: float) -> dict[str, Any]:
    met = all(value <= target for value in measured.values())
    return {"measured": dict(measured), "target": f"at most {target} at every sparsity ratio", "met": met}


# The page


def markdown(table: Mapping[str, Rows]) -> str:
    lines = [f"| sparsity ratio | {' | '.join(table)} |", f"|---|{'--:|' * len(table)}"]
    for name in table[RATIOS[0]]:
        lines.append(f"| {name} | {' | '.join(f'{fmean(found[name]):.2f}' for found in table.values())} |")
    return "\n".join(lines)


def claims_markdown(made: Claims) -> str:
    lines = ["| claim | target | measured | met |", "|---|---|---|---|"]
    for name, claim in made.items():
        measured = claim["measured"]
        figures = measured.values() if isinstance(measured, dict) else [measured]
        said = ", ".join(f"{figure:.3f}" for figure in figures)
        lines.append(f"| {name} | {claim['target']} | {said} | {'yes' if claim['met'] else '**no**'} |")
    return "\n".join(lines)


def page(tables: Mapping[str, Mapping[str, Rows]], made: Claims) -> str:
    machine = facts()
    return f"""# What pruning together is worth

`make bench-quality` measures this page; `python -m bench.quality --write-docs` rewrites it.

Perplexity of the demo's model (5 M parameters) on {HELD_OUT} held-out sequences of each of four silos, all together;
lower is better. Sequences have {LENGTH} tokens. Every row of votes or weights comes from whole runs of
`aggregator local`: a process a silo, over secure aggregation.

- *Votes* are FedPrLLM with Wanda at the silos, *weights* FedSpaLLM with SparseGPT: comparison group `layer`, one-shot.
  Ties of keep counts break by relative importance, from the opened sums alone (ADR 24).
- *Random ties* are the published rule: the same opened sums, in which weights at the threshold are zeroed in random
  order. Mean of {len(RANDOM_SEEDS)} seeds.
- *Each silo alone* prunes on its own text: the mean of four models.
- *Text that the model wrote* is {SELF_SAMPLES} sequences of it, which need nobody's data.
- *Energies* and *gram* are statistics that silos pool, and by which everybody prunes: with Wanda unless a pruner is
  named. With SparseGPT, ADMM and ALPS, energies take correlations from text that the model writes (ADR 41).
- *Centralised* is what one owner of all silos' calibration text would get.

## Own domain

Each silo has docstrings of one package, of those that were held out when the model was trained, and calibrates on
{SAMPLES[OWN]} sequences.

{markdown(tables[OWN])}

## Domain shift

Each silo has text of a kind that the model was not trained on (C++ headers, licences, Python code, the Python manual),
and calibrates on {SAMPLES[SHIFTED]} sequences.

{markdown(tables[SHIFTED])}

## Claims

Quotients of perplexities; where there is more than one, by sparsity ratio in the order of the tables.

{claims_markdown(made)}

Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Perplexity of every way of pruning together, and of the baselines.")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--ratios", nargs="*", choices=RATIOS, default=list(RATIOS), help="sparsity ratios")
    parser.add_argument("--domain", nargs="*", choices=[*SAMPLES], default=[*SAMPLES], help="kinds of silos")
    given = parser.parse_args()
    is_whole = (given.ratios, given.domain) == ([*RATIOS], [*SAMPLES])
    if given.write_docs and not is_whole:
        parser.error("--write-docs writes all sparsity ratios and kinds of silos")
    weights = DenseWeights.open(MODEL)
    tables: dict[str, dict[str, Rows]] = {domain: {} for domain in given.domain}
    made: Claims = {}
    with TemporaryDirectory() as name:
        text = Path(name)
        files = {OWN: write_own_silos(text / "own"), SHIFTED: harvest_silos(text / "shifted")}
        self_text = self_sequences(
            weights, samples=SELF_SAMPLES, sequence_length=LENGTH, device=CPU, progress=lambda *_: None
        )
        for domain, table in tables.items():
            silos = read_silos(files[domain], weights, samples=SAMPLES[domain], length=LENGTH, held_out=HELD_OUT)
            for ratio in given.ratios:
                progress(domain)
                with TemporaryDirectory() as folder:
                    table[ratio] = rows(weights, silos, self_text, ratio, Path(folder))
            if is_whole:
                made |= claims(domain, table)
            if domain == SHIFTED:
                made |= pooled_claims(table)
    for domain, table in tables.items():
        progress(f"\n{domain}\n{markdown(table)}")
    progress(f"\n{claims_markdown(made)}")
    if given.write_docs:
        PAGE.write_text(page(tables, made))
    publish(
        made,
        setting={"samples": SAMPLES, "self_samples": SELF_SAMPLES, "held_out": HELD_OUT, "sequence_length": LENGTH},
        perplexity=tables,
    )


if __name__ == "__main__":
    main()
