"""What each way of pruning together is worth: perplexities of the demo's model, side by side, and what is claimed.

Run `make bench-quality`; `--ways`, `--ratios` and `--domain` choose a part. Two kinds of silos: of the model's own
domain, docstrings that were held out when it was trained, and of four domains that are new to it. What the ways are,
bench/ways.py says. Each row is kept as soon as it is known, so that the bench may be stopped at any time and go on;
`--write-docs` writes what is there to docs/quality.md. Prints one JSON document, and tables on stderr; exits with 1
when a claim is not met.
"""

import argparse
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from bench.demo.harvest import docstrings_by_package, harvest_silos, write_silos
from bench.demo.run import LENGTH, MODEL
from bench.demo.train_model import split
from bench.document import Claims, at_most, progress, publish
from bench.kept_rows import FOLDER, KeptRows, Row
from bench.machine import facts
from bench.pruned_models import CPU, Changed, perplexity, read_silos
from bench.ways import (
    ALONE,
    ALONE_SPARSEGPT,
    ENERGIES,
    FEDPRLLM,
    FEDSPALLM,
    GRAM,
    ITERATIVE,
    RANDOM_SEEDS,
    SCALED,
    SELF_TEXT,
    VOTES,
    WAYS,
    WEIGHTS,
)
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.writing.self_text import self_sequences

RATIOS = ("0.5", "0.6", "0.7", "0.8")
OWN, SHIFTED = "own domain", "domain shift"
SAMPLES = {OWN: 16, SHIFTED: 64}  # of a silo
SELF_SAMPLES, HELD_OUT = 64, 16
RESULTS, PAGE = FOLDER / "quality.json", Path("docs/quality.md")

Table = Mapping[str, Mapping[str, Row]]
"""By sparsity ratio and row, ``perplexity``: of the models that the row is the mean of."""


def write_own_silos(folder: Path) -> list[Path]:
    """A silo a package: the docstrings that bench/demo/train_model.py held out."""
    by_package = docstrings_by_package()
    held_out = set(split([text for texts in by_package.values() for text in texts])[1])
    return write_silos(folder, {name: filter(held_out.__contains__, texts) for name, texts in by_package.items()})


def mean(row: Row) -> float:
    """The mean perplexity of a row's models."""
    return fmean(row["perplexity"])


# Claims

CLAIMED = (VOTES, FEDPRLLM, WEIGHTS, FEDSPALLM, ALONE_SPARSEGPT, ITERATIVE, SCALED)
"""The rows that `claims` are about."""


def has(table: Table, ratios: Iterable[str], ways: Iterable[str]) -> bool:
    """Whether all these rows are measured at all these sparsity ratios."""
    return all({*ways} <= table.get(ratio, {}).keys() for ratio in ratios)


def claims(domain: str, table: Table) -> Claims:
    """What the papers found and what this repository adds, of one kind of silos. `table` is by sparsity ratio."""

    def quotients(row: str, other: str) -> dict[str, float]:
        return {ratio: mean(rows[row]) / mean(rows[other]) for ratio, rows in table.items()}

    made: Claims = {}
    for ours, published in ((VOTES, FEDPRLLM), (WEIGHTS, FEDSPALLM)):
        name, against = f"{domain}: {ours}, ties by importance / at random", quotients(ours, published)
        made[name] = at_most_everywhere(against, 1)
        made[f"{name}, at {RATIOS[-1]}"] = at_most(against[RATIOS[-1]], 0.97)
    made[f"{domain}: weights / SparseGPT, each silo alone"] = at_most_everywhere(quotients(WEIGHTS, ALONE_SPARSEGPT), 1)
    apart = {ratio: abs(quotient - 1) for ratio, quotient in quotients(ITERATIVE, VOTES).items()}
    made[f"{domain}: difference of votes, iterative, from votes"] = at_most_everywhere(apart, 0.02)
    made[f"{domain}: votes / votes, weight scaling"] = at_most_everywhere(quotients(VOTES, SCALED), 1)
    return made


BELOW = {"0.7": (0.93, 0.94, 0.96, 0.98), "0.8": (0.80, 0.88, 0.90, 0.96)}
"""By sparsity ratio, what the best pooled row may have of FedSpaLLM's rule and of the best row that shares nothing, and
then the best row of pooled energies."""


POOLED_CLAIMED = (
    FEDSPALLM,
    *(f"{solver}, {nothing}" for solver in ("ADMM", "ALPS") for nothing in (SELF_TEXT, ALONE)),
    *(f"{kind}, {solver}" for kind in (ENERGIES, GRAM) for solver in ("ADMM", "ALPS")),
    f"{GRAM}, ALPS, dense target",
)
"""The rows without which `pooled_claims` would compare others than the best ones."""


def pooled_claims(table: Table) -> Claims:
    """What pooled statistics are worth beside votes of weights, and beside sharing nothing, under a domain shift."""
    made: Claims = {}
    for ratio, targets in BELOW.items():
        rows = {name: mean(row) for name, row in table[ratio].items()}
        nothing = min(rows[name] for name in rows if SELF_TEXT in name or ALONE in name)
        energies, gram = (min(rows[name] for name in rows if name.startswith(kind)) for kind in (ENERGIES, GRAM))
        quotients = [best / other for best in (min(energies, gram), energies) for other in (rows[FEDSPALLM], nothing)]
        names = ("pooled / FedSpaLLM", "pooled / nothing shared", "energies / FedSpaLLM", "energies / nothing shared")
        for name, quotient, target in zip(names, quotients, targets, strict=True):
            made[f"{SHIFTED}: best of {name}, at {ratio}"] = at_most(quotient, target)
    return made


def at_most_everywhere(measured: Mapping[str, float], target: float) -> dict[str, Any]:
    met = all(value <= target for value in measured.values())
    return {"measured": dict(measured), "target": f"at most {target} at every sparsity ratio", "met": met}


# The page


def markdown(table: Table) -> str:
    lines = [f"| sparsity ratio | {' | '.join(table)} |", f"|---|{'--:|' * len(table)}"]
    for name in WAYS:
        if not any(name in rows for rows in table.values()):
            continue
        cells = [f"{mean(rows[name]):.2f}" if name in rows else "" for rows in table.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims_markdown(made: Claims) -> str:
    lines = ["| claim | target | measured | met |", "|---|---|---|---|"]
    for name, claim in made.items():
        measured = claim["measured"]
        figures = measured.values() if isinstance(measured, dict) else [measured]
        in_words = ", ".join(f"{figure:.3f}" for figure in figures)
        lines.append(f"| {name} | {claim['target']} | {in_words} | {'yes' if claim['met'] else '**no**'} |")
    return "\n".join(lines)


def page(tables: Mapping[str, Table], made: Claims) -> str:
    machine = facts()
    return f"""# What pruning together is worth

`make bench-quality` measures this page; `python -m bench.quality --write-docs` rewrites it.

Perplexity of the demo's model (5 M parameters) on {HELD_OUT} held-out sequences of each of four silos, all together;
lower is better. Sequences have {LENGTH} tokens. Every row of votes, weights, energies or gram comes from whole runs of
`aggregator local`: a process a silo, over secure aggregation. What was not measured is left empty, or out where
that is all of a row.

- *Votes* are FedPrLLM with Wanda at the silos, *weights* FedSpaLLM with SparseGPT or the solver named: comparison
  group `layer`, one-shot. Ties of keep counts break by relative importance, from the opened sums alone (ADR 24).
- *Random ties* are the published rule: the same opened sums, in which weights at the threshold are zeroed in random
  order. Mean of {len(RANDOM_SEEDS)} seeds. *Ties by magnitude* zero the smallest of them.
- *Energies* and *gram* are statistics that silos pool, and by which everybody prunes: with Wanda unless a pruner is
  named. With SparseGPT, ADMM and ALPS, energies take correlations from text that the model writes (ADR 41).
- With a *dense target*, the last layer of each block makes up for what pruning did before it (ADR 42). *Attention*
  pools products of the inputs of attention's weights alone, and energies of all others.
- *Self-text* is {SELF_SAMPLES} sequences that the model wrote, which need nobody's data.
- *Alone*: each silo prunes on its own text; the mean of four models.
- *Centralised* is what one owner of all silos' calibration text would get; of energies, who keeps only those.
- *OWL* spreads the sparsity ratio over the blocks by their outliers.

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

Each row was kept when it was measured: they are not all of one day.
Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Perplexity of every way of pruning together, and of the baselines.")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS], help="rows")
    parser.add_argument("--ratios", nargs="*", choices=RATIOS, default=[*RATIOS], help="sparsity ratios")
    parser.add_argument("--domain", nargs="*", choices=SAMPLES, default=[*SAMPLES], help="kinds of silos")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to go on with")
    given = parser.parse_args()
    setting = {"samples": SAMPLES, "self_samples": SELF_SAMPLES, "held_out": HELD_OUT, "sequence_length": LENGTH}
    kept, weights = KeptRows(given.results, setting), DenseWeights.open(MODEL)
    self_text = self_sequences(
        weights, samples=SELF_SAMPLES, sequence_length=LENGTH, device=CPU, progress=lambda *_: None
    )
    with TemporaryDirectory() as name:
        text = Path(name)
        files = {OWN: write_own_silos(text / "own"), SHIFTED: harvest_silos(text / "shifted")}
        for domain in given.domain:
            silos = read_silos(files[domain], weights, samples=SAMPLES[domain], length=LENGTH, held_out=HELD_OUT)

            def figures(models: Iterable[Changed], held_out: Tensor = silos.held_out) -> Row:
                return {"perplexity": [perplexity(model, held_out) for model in models]}

            kept.measure(silos, domain, given.ratios, given.ways, weights, self_text, figures)
    tables = kept.tables
    for domain, table in tables.items():
        progress(f"\n{domain}\n{markdown(table)}")
    made: Claims = {}
    for domain in SAMPLES:
        if has(tables.get(domain, {}), RATIOS, CLAIMED):
            made |= claims(domain, tables[domain])
    if has(tables.get(SHIFTED, {}), BELOW, POOLED_CLAIMED):
        made |= pooled_claims(tables[SHIFTED])
    progress(f"\n{claims_markdown(made)}")
    if given.write_docs:
        PAGE.write_text(page(tables, made))
    publish(made, setting=setting, tables=tables)


if __name__ == "__main__":
    main()
