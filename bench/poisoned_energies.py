"""How much one lying silo of 4 and of 16 can worsen what all make by pooled energies, with noise and without.

Run `python -m bench.poisoned_energies`; with `--write-docs` it also writes the second part of docs/poisoning.md. The
model and text are those of bench.privacy_curve, and Wanda prunes to 0.7. Prints one JSON document: perplexities on
held-out text by epsilon, silos and lie.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.demo.run import MODEL
from bench.document import progress, publish
from bench.energies_in_one_place import Lanes, planned, pooled
from bench.poisoning import ENERGIES_PART, PAGE
from bench.privacy_curve import Text
from bench.pruned_models import perplexity
from crypto.errors import CorruptSum
from crypto.names import Pruner
from crypto.releases.energies import CLIPPED_SECTION
from silo_agent.checkpoint.dense_weights import DenseWeights

TEXTS = ("the truth", "text of random tokens")
LANES = ("all on the weakest features", "the others' sum, negative", "beyond the bound")
SILOS, EPSILONS = (4, 16), (None, 4.0)
RATIO, RECORDS = "0.7", 800  # records of all silos together


def text_of(lie: str, honest: Tensor, tokens: int) -> Tensor:
    """Return the lying silo's records, int64 [n, L]."""
    is_random = lie == "text of random tokens"
    return torch.randint(tokens, honest.shape, generator=torch.Generator().manual_seed(0)) if is_random else honest


def lying_lanes(lie: str, sums: NDArray[np.int64], most: float) -> NDArray[np.int64]:
    """Return what a lie adds to the sums of a block, int64 [d], of length `most` but for the one beyond the bound."""
    if lie == "the others' sum, negative":
        return np.rint(-sums * min(1, most / float(np.linalg.norm(sums)))).astype(np.int64)
    weakest = np.argsort(sums)[: len(sums) // 10]
    lanes = np.zeros(len(sums), np.int64)
    lanes[weakest] = int(most / len(weakest) ** 0.5) * (1000 if lie == "beyond the bound" else 1)
    return lanes


def poisoned(
    weights: DenseWeights, texts: list[Tensor], lie: str, epsilon: float | None, folder: Path
) -> dict[str, Tensor]:
    """Return what silos with these texts, of which the last one lies, make of the model, by name."""
    samples = len(texts[0])
    plan = planned(weights, Pruner.WANDA, RATIO, epsilon, silos=len(texts), samples=samples)

    def made_up(lanes: Lanes) -> None:
        inputs = [chunk for chunk in lanes if chunk.section.name != CLIPPED_SECTION]
        sums = np.concatenate([lanes[chunk] for chunk in inputs]).view(np.int64)
        most = samples * plan.pruning.clip if epsilon else float(np.linalg.norm(sums.astype(np.float64)))
        ends = np.cumsum([chunk.lanes for chunk in inputs])[:-1]
        for chunk, added in zip(inputs, np.split(lying_lanes(lie, sums, most), ends), strict=True):
            lanes[chunk] += added.astype(np.uint64)

    if lie in LANES:
        return pooled(weights, plan, torch.cat(texts[:-1]), folder, made_up)
    last = text_of(lie, texts[-1], int(texts[0].max()) + 1)
    return pooled(weights, plan, torch.cat([*texts[:-1], last]), folder)


def main() -> None:
    """Measure every lie, and print what came out."""
    parser = argparse.ArgumentParser(description="How much one lying silo can worsen pooled energies.")
    parser.add_argument("--records", type=int, default=RECORDS, help="of all silos together")
    parser.add_argument("--write-docs", action="store_true", help=f"write the second part of {PAGE}")
    given = parser.parse_args()
    rows: dict[str, float | str] = {}
    with TemporaryDirectory() as folder:
        weights = DenseWeights.open(MODEL)
        text = Text(weights, Path(folder) / "text")
        for silos in SILOS:
            records = given.records // silos
            texts = [part for of in text.records(given.records // SILOS[0]) for part in of.split(records)]
            for epsilon in EPSILONS:
                for lie in (*TEXTS, *LANES):
                    name = row(lie, silos, epsilon)
                    with TemporaryDirectory(dir=folder) as run:
                        try:
                            made = poisoned(weights, texts, lie, epsilon, Path(run))
                            rows[name] = perplexity((weights, made), text.held_out)
                        except CorruptSum:
                            rows[name] = "corrupt sum"
                    progress(name, rows[name])
    if given.write_docs:
        first, *_ = PAGE.read_text().partition(ENERGIES_PART)
        PAGE.write_text(first + ENERGIES_PART + page(rows, given.records))
    publish({}, rows=rows)


def row(lie: str, silos: int, epsilon: float | None) -> str:
    return f"{lie}, 1 of {silos}, epsilon {epsilon}"


def page(rows: Mapping[str, float | str], records: int) -> str:
    """Return the second part of the page."""

    def shown(figure: float | str) -> str:
        return figure if isinstance(figure, str) else f"{figure:.1f}"

    table = "\n".join(
        f"| {lie} | {' | '.join(shown(rows[row(lie, silos, epsilon)]) for silos in SILOS for epsilon in EPSILONS)} |"
        for lie in (*TEXTS, *LANES)
    )
    heads = " | ".join(
        f"1 of {silos}, {'no noise' if of is None else f'epsilon {of:g}'}" for silos in SILOS for of in EPSILONS
    )
    return f"""
`python -m bench.poisoned_energies --write-docs` measures this part. Wanda prunes to 0.7 by energies of {records}
records of 64 tokens, of all silos together, whose domains are new to the model. One silo lies: about its text, or by
lanes that it makes up. With an epsilon these are as long as the clip lets all its records be, without one as long as
the others' sum; what is beyond the bound is 1,000 times as long. Figures are perplexities on held-out text of the same
domains, of one seed of the noise, which moves them by one or two.

| the lying silo | {heads} |
|---|{"--:|" * len(SILOS) * len(EPSILONS)}
{table}

With an epsilon, what one silo can move is its number of units times the clip, as long as it runs this code: its share
falls with the number of silos. Whoever runs other code is held to the length of the whole sum alone (protocol, 2.9.11).
Without an epsilon nothing is too long.
"""


if __name__ == "__main__":
    main()
