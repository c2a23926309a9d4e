"""The ways of pruning together on a real pretrained model: Gemma 3 of 268 M parameters, on real text.

Run `make bench-real` for everything, which takes most of a day on two cores; `--rows`, `--ratios` and `--domain` choose
a part. Each row is written to one JSON file as soon as it is known, and what is there already is not measured again,
so that the bench may be stopped at any time and go on. `--write-docs` writes docs/quality-real.md from that file.

Beside perplexity there is one look at what a model writes: prompts with the dense model's greedy continuations, and the
share of their tokens that the pruned model, too, holds the likeliest.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.document import progress, publish
from bench.domains import SETTINGS, write_domains
from bench.machine import facts
from bench.pruned_models import CPU, Changed, Silos, federate, perplexity, prune, read_silos
from bench.real_model import FOLDER, real_model
from crypto.names import Pruner
from silo_agent.host.whole_file import write_whole
from silo_agent.model.activations import BlockWalk
from silo_agent.model.dense_weights import DenseWeights
from silo_agent.writing.self_text import self_sequences

SAMPLES, HELD_OUT, LENGTH = 16, 8, 256  # of a silo; tokens
RATIOS = ("0.5", "0.6", "0.7", "2:4")
RESULTS, PAGE = FOLDER.parent / "results.json", Path("docs/quality-real.md")

PROMPTS = (
    "The patient was admitted to the hospital with severe chest pain, and the doctors decided to",
    "When the central bank raised its interest rate for the third time this year, many investors",
    "Photosynthesis is the process by which green plants turn sunlight, water and carbon dioxide into",
    "The old library at the end of the street had been closed for years, but one evening the",
    "To install the package, first make sure that you have a recent version of the compiler and",
    "In the first half of the nineteenth century, the railway changed the life of small towns because",
    "The court held that the contract was void, since neither of the two parties had been told",
    "Water boils at a lower temperature on a high mountain than at the sea, which is why",
)
PROMPT, CONTINUED = 16, 32
"""Tokens of each prompt, the rest of which is cut off, and of its continuation."""


@dataclass(frozen=True)
class Bench:
    """One kind of silos at one sparsity ratio or pattern: what a row makes its models of."""

    weights: DenseWeights
    silos: Silos
    target: str

    @cached_property
    def self_text(self) -> Tensor:
        """Sequences that the model wrote, as many as a silo has; kept, since writing them takes long."""
        file = FOLDER.parent / f"self-{SAMPLES}-{LENGTH}.safetensors"
        if not file.exists():
            written = self_sequences(
                self.weights, samples=SAMPLES, sequence_length=LENGTH, device=CPU, progress=lambda *_: None
            )
            write_whole(file, save({"tokens": written}))
        return load_file(file)["tokens"]

    def here(self, pruner: Pruner, *texts: Tensor) -> Iterator[Changed]:
        """A model pruned here for each text."""
        return ((self.weights, prune(self.weights, text, pruner, self.target)) for text in texts)

    def together(self, *options: str) -> Iterator[Changed]:
        """The model of a whole federation."""
        with TemporaryDirectory() as name:
            out = Path(name) / "out"
            federate(self.weights.folder, self.silos, out, self.target, *options)
            yield DenseWeights.open(out / "model"), {}


DENSE = "dense"
ROWS: Mapping[str, Callable[[Bench], Iterable[Changed]]] = {
    "magnitude": lambda at: at.here(Pruner.MAGNITUDE, at.silos.pooled),
    "wanda-self-text": lambda at: at.here(Pruner.WANDA, at.self_text),
    "wanda-alone": lambda at: at.here(Pruner.WANDA, *at.silos.calibration),
    "votes": lambda at: at.together(),
    "wanda-centralised": lambda at: at.here(Pruner.WANDA, at.silos.pooled),
    "sparsegpt-self-text": lambda at: at.here(Pruner.SPARSEGPT, at.self_text),
    "sparsegpt-alone": lambda at: at.here(Pruner.SPARSEGPT, *at.silos.calibration),
    "weights": lambda at: at.together("--release", "weights", "--pruner", "sparsegpt"),
    "sparsegpt-centralised": lambda at: at.here(Pruner.SPARSEGPT, at.silos.pooled),
    "energies": lambda at: at.together("--release", "energies"),
    "energies-ria": lambda at: at.together("--release", "energies", "--pruner", "ria"),
    "energies-owl": lambda at: at.together("--release", "energies", "--allocation", "owl"),
    "energies-sparsegpt": lambda at: at.together("--release", "energies", "--pruner", "sparsegpt"),
    "gram-sparsegpt": lambda at: at.together("--release", "gram", "--pruner", "sparsegpt"),
    "admm-self-text": lambda at: at.here(Pruner.ADMM, at.self_text),
    "admm-alone": lambda at: at.here(Pruner.ADMM, *at.silos.calibration),
    "weights-admm": lambda at: at.together("--release", "weights", "--pruner", "admm"),
    "energies-admm": lambda at: at.together("--release", "energies", "--pruner", "admm"),
    "gram-admm": lambda at: at.together("--release", "gram", "--pruner", "admm"),
    "alps-self-text": lambda at: at.here(Pruner.ALPS, at.self_text),
    "energies-alps": lambda at: at.together("--release", "energies", "--pruner", "alps"),
    "gram-alps": lambda at: at.together("--release", "gram", "--pruner", "alps"),
}
"""By name, the models that a row is the mean of."""

Figures = dict[str, float]
"""A row's perplexity, its agreement with the dense model, and the seconds that it took."""


class Results:
    """What was measured so far, by kind of silos, sparsity ratio and row, in a file that is whole at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        setting = {"samples": SAMPLES, "held_out": HELD_OUT, "sequence_length": LENGTH}
        self.document: dict[str, Any] = {"setting": setting, "domains": {}}
        if file.exists():
            self.document = json.loads(file.read_text())
            if self.document["setting"] != setting:
                raise SystemExit(f"{file}: was measured with other sequences; remove it, or name another --results")

    def rows(self, domain: str, target: str) -> dict[str, Figures]:
        """The rows of a kind of silos at a sparsity ratio, to read and to add to."""
        rows: dict[str, Figures] = self.document["domains"].setdefault(domain, {}).setdefault(target, {})
        return rows

    def save(self) -> None:
        write_whole(self._file, json.dumps(self.document, indent=2).encode())


# What the model writes


def continued(weights: DenseWeights) -> Tensor:
    """The dense model's greedy continuation of each prompt: int64 [prompts, PROMPT + CONTINUED]."""
    starts = torch.tensor([weights.tokenizer(prompt)["input_ids"][:PROMPT] for prompt in PROMPTS])
    model: Any = AutoModelForCausalLM.from_pretrained(weights.folder, dtype=torch.float32)
    written: Tensor = model.generate(starts, do_sample=False, min_new_tokens=CONTINUED, max_new_tokens=CONTINUED)
    return written


def agreement(model: Changed, text: Tensor) -> float:
    """The share of the continuations' tokens that the model, given all before, holds the likeliest."""
    weights, changed = model
    walk = BlockWalk(weights, text, device=CPU)
    for _ in walk:
        walk.advance(changed)
    same = [logits[:, PROMPT - 1 : -1].argmax(-1) == ids[:, PROMPT:] for ids, logits in walk.logits()]
    return torch.cat(same).double().mean().item()


# The table


def measure(models: Iterable[Changed], silos: Silos, text: Tensor) -> Figures:
    """Means over the models, of which one is there at a time."""
    begin = time.monotonic()
    figures = [(perplexity(model, silos.held_out), agreement(model, text)) for model in models]
    perplexities, agreements = zip(*figures, strict=True)
    seconds = time.monotonic() - begin
    return {"perplexity": fmean(perplexities), "agreement": fmean(agreements), "seconds": seconds}


def measure_domain(domain: str, targets: Iterable[str], rows: Iterable[str], results: Results) -> None:
    """Measure what `results` lacks of one kind of silos."""
    weights = DenseWeights.open(real_model())
    text = continued(weights)
    with TemporaryDirectory() as name:
        files = write_domains(Path(name), domain, weights.tokenizer, LENGTH)
        silos = read_silos(files, weights, samples=SAMPLES, length=LENGTH, held_out=HELD_OUT)
        dense = results.rows(domain, DENSE)
        if DENSE not in dense:
            dense[DENSE] = measure([(weights, {})], silos, text)
            results.save()
        for target in targets:
            bench, found = Bench(weights, silos, target), results.rows(domain, target)
            for row in rows:
                if row not in found:
                    found[row] = measure(ROWS[row](bench), silos, text)
                    results.save()
                progress(f"{domain} {target} {row}:", found[row])


def markdown(table: Mapping[str, Mapping[str, Figures]], figure: str) -> str:
    """A table of one figure, a row a line; what was not measured is left empty."""
    targets = [target for target in RATIOS if target in table]
    lines = [f"| | {' | '.join(targets)} |", f"|---|{'--:|' * len(targets)}"]
    for row in (DENSE, *ROWS):
        of_row = [table[DENSE if row == DENSE else target].get(row) for target in targets]
        cells = ["" if figures is None else f"{figures[figure]:.2f}" for figures in of_row]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(tables: Mapping[str, Mapping[str, Mapping[str, Figures]]]) -> str:
    machine = facts()
    of_domains = [
        f"## Silos of {domain} text\n\n{', '.join(SETTINGS[domain])}. Perplexity:\n\n"
        f"{markdown(table, 'perplexity')}\n\n"
        f"Share of the dense model's next tokens:\n\n{markdown(table, 'agreement')}\n"
        for domain, table in tables.items()
    ]
    return f"""# Pruning together on a real model

`make bench-real` measures this page; `python -m bench.real --write-docs` rewrites it from what was measured last.

The model is Gemma 3 of 268 M parameters, in 4 bits as its packages bring it, widened to bfloat16. Four silos have
{SAMPLES} calibration sequences of {LENGTH} tokens each. Perplexity is of {HELD_OUT} held-out sequences of each silo,
all together; lower is better. Beside it is the share of tokens of the dense model's greedy continuations of
{len(PROMPTS)} prompts, {CONTINUED} tokens each, that the pruned model, given all before, holds the likeliest too.

- *Alone*: each silo prunes on its own text; the mean of four models.
- *Self-text*: sequences that the model wrote itself, which need nobody's data.
- *Centralised*: what one owner of all silos' calibration text would get.
- *Votes* (Wanda at the silos), *weights* (SparseGPT), *energies* and *gram*: whole runs of `aggregator local`.

{chr(10).join(of_domains)}
Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Ways of pruning together on a real pretrained model.")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--ratios", nargs="*", choices=RATIOS, default=list(RATIOS), help="sparsity ratios, or patterns"
    )
    parser.add_argument("--domain", nargs="*", choices=SETTINGS, default=list(SETTINGS), help="kinds of silos")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to go on with")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE}")
    given = parser.parse_args()
    results = Results(given.results)
    for domain in given.domain:
        measure_domain(domain, given.ratios, given.rows, results)
    if given.write_docs:
        PAGE.write_text(page(results.document["domains"]))
    publish({}, **results.document)


if __name__ == "__main__":
    main()
