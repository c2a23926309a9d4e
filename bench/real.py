"""The ways of pruning together on a real pretrained model: Gemma 3 of 268 M parameters, on real text.

Run `make bench-real` for everything, which takes most of a day on two cores; `--ways`, `--ratios` and `--domain` choose
a part. Each row is written to one JSON file as soon as it is known, and what is there already is not measured again,
so that the bench may be stopped at any time and go on. `--write-docs` writes docs/quality-real.md from that file.

Beside perplexity there is one look at what a model writes: prompts with the dense model's greedy continuations, and the
share of their tokens that the pruned model, too, holds the likeliest.
"""

import argparse
import time
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.document import publish
from bench.domains import SETTINGS, write_domains
from bench.kept_rows import FOLDER, KeptRows, Row, Tables
from bench.machine import facts
from bench.pruned_models import CPU, Changed, perplexity, read_silos
from bench.real_model import real_model
from bench.ways import WAYS
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.host.whole_file import write_whole
from silo_agent.model.activations import BlockWalk
from silo_agent.writing.self_text import self_sequences

SAMPLES, HELD_OUT, LENGTH = 16, 8, 256  # of a silo; tokens
RATIOS = ("0.5", "0.6", "0.7", "2:4")
RESULTS, PAGE = FOLDER / "real.json", Path("docs/quality-real.md")

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


def self_text(weights: DenseWeights) -> Tensor:
    """Sequences that the model wrote, as many as a silo has; kept, since writing them takes long."""
    file = FOLDER / f"self-{SAMPLES}-{LENGTH}.safetensors"
    if not file.exists():
        written = self_sequences(weights, samples=SAMPLES, sequence_length=LENGTH, device=CPU, progress=lambda *_: None)
        write_whole(file, save({"tokens": written}))
    return load_file(file)["tokens"]


def figures_of(models: Iterable[Changed], held_out: Tensor, text: Tensor) -> Row:
    """Means over the models, of which one is there at a time, and the seconds that all took."""
    begin = time.monotonic()
    figures = [(perplexity(model, held_out), agreement(model, text)) for model in models]
    perplexities, agreements = zip(*figures, strict=True)
    seconds = time.monotonic() - begin
    return {"perplexity": fmean(perplexities), "agreement": fmean(agreements), "seconds": seconds}


def markdown(table: Mapping[str, Mapping[str, Row]], figure: str) -> str:
    """A table of one figure, a row a line; what was not measured is left empty, or out where that is all of a row."""
    targets = [target for target in RATIOS if target in table]
    lines = [f"| | {' | '.join(targets)} |", f"|---|{'--:|' * len(targets)}"]
    for way in WAYS:
        rows = [table[target].get(way) for target in targets]
        if not any(rows):
            continue
        cells = ["" if row is None else f"{row[figure]:.2f}" for row in rows]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(tables: Tables) -> str:
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

The rows are those of [What pruning together is worth](quality.md), which explains them. What was not measured is left
empty, or out where that is all of a row.

{chr(10).join(of_domains)}
Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Ways of pruning together on a real pretrained model.")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS], help="rows")
    parser.add_argument("--ratios", nargs="*", choices=RATIOS, default=[*RATIOS], help="sparsity ratios, or patterns")
    parser.add_argument("--domain", nargs="*", choices=SETTINGS, default=[*SETTINGS], help="kinds of silos")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to go on with")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE}")
    given = parser.parse_args()
    setting = {"samples": SAMPLES, "held_out": HELD_OUT, "sequence_length": LENGTH}
    kept, weights = KeptRows(given.results, setting), DenseWeights.open(real_model())
    text, of_itself = continued(weights), self_text(weights)
    for domain in given.domain:
        with TemporaryDirectory() as name:
            files = write_domains(Path(name), domain, weights.tokenizer, LENGTH)
            silos = read_silos(files, weights, samples=SAMPLES, length=LENGTH, held_out=HELD_OUT)
            figures = partial(figures_of, held_out=silos.held_out, text=text)
            kept.measure(silos, domain, given.ratios, given.ways, weights, of_itself, figures)
    if given.write_docs:
        PAGE.write_text(page(kept.tables))
    publish({}, setting=setting, tables=kept.tables)


if __name__ == "__main__":
    main()
