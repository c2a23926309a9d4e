"""What differential privacy costs: perplexity by epsilon and by how many records a silo has, under the domain shift.

Run `make bench-privacy`; `--epsilons`, `--records`, `--pruners`, `--ratios` and `--seeds` choose a part. The demo's
model, four silos of the domains that are new to it, records of 64 tokens, each a unit. Each row is kept as soon as it
is known, so that the bench may be stopped at any time and go on. All units are in one place, and the noise is that of
four silos (bench.energies_in_one_place). Prints one JSON document, and each row on stderr.
"""

import argparse
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.demo.harvest import harvest_silos
from bench.demo.run import LENGTH, MODEL
from bench.document import progress, publish
from bench.energies_in_one_place import CPU, DELTA, RECORD, planned, pooled
from bench.kept_rows import FOLDER
from bench.privacy_page import page, picture
from bench.pruned_models import perplexity, prune
from crypto.names import ComparisonGroup, Pruner
from crypto.privacy.mechanisms.discrete_gaussian import discrete_gaussian
from crypto.privacy.noise_shares import VOTE_BITS
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.host.whole_file import write_whole
from silo_agent.pruning.expansion import NoisyCounts, expand_noisy
from silo_agent.pruning.mask_expansion import expand
from silo_agent.writing.self_text import self_sequences

SILOS, HELD_OUT, SELF_SAMPLES = 4, 16, 64
CHARACTERS = 1_000_000
EPSILONS = ("none", "16", "8", "4", "2", "1", "0.5")
RECORDS = (100, 250, 500, 1000, 2000)
VOTE_NOISES = ("none", "0.25", "0.5", "1", "2", "4")  # of each silo's share, in votes
PRUNERS, RATIOS = ("wanda", "admm"), ("0.7", "0.8")
SELF_TEXT, ALONE = "self-text", "alone"
RESULTS = FOLDER / "privacy.json"
PAGE, PICTURE = Path("docs/privacy-cost.md"), Path("docs/images/privacy-cost.svg")


class Text:
    """The records of each silo, in an order of their own, and sequences that nothing is calibrated on."""

    def __init__(self, weights: DenseWeights, folder: Path) -> None:
        self.silos: list[Tensor] = []
        held_out = []
        for file in harvest_silos(folder, CHARACTERS):
            ids = torch.tensor(weights.tokenizer(file.read_text("utf-8"), verbose=False)["input_ids"])
            sequences = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
            held_out.append(sequences[:HELD_OUT])
            self.silos.append(sequences[HELD_OUT:].reshape(-1, RECORD))
        self.held_out = torch.cat(held_out)

    def records(self, count: int) -> list[Tensor]:
        """The first `count` records of each silo; of one that has fewer, all."""
        return [silo[:count] for silo in self.silos]


class Bench:
    """What is measured, and what is kept of it."""

    def __init__(self, file: Path, folder: Path) -> None:
        self._file, self._folder = file, folder
        self.weights = DenseWeights.open(MODEL)
        self.text = Text(self.weights, folder / "text")
        self.rows: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {}

    def measure(self, name: str, seed: int, figure: Callable[[], float]) -> None:
        """Add a figure to a row that has fewer than `seed` of them."""
        if len(self.rows.get(name, [])) < seed:
            self.rows.setdefault(name, []).append(figure())
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(self.rows, indent=1).encode())
            progress(name, self.rows[name])

    def federated(self, pruner: str, ratio: str, epsilon: str, records: int, seeds: int) -> None:
        def figure() -> float:
            of_silos, promised = self.text.records(records), None if epsilon == "none" else float(epsilon)
            samples = max(map(len, of_silos))
            plan = planned(self.weights, Pruner(pruner), ratio, promised, silos=SILOS, samples=samples)
            with TemporaryDirectory(dir=self._folder) as folder:
                made = pooled(self.weights, plan, torch.cat(of_silos), Path(folder))
                return perplexity((self.weights, made), self.text.held_out)

        for seed in range(1, 1 + (1 if epsilon == "none" else seeds)):
            self.measure(row(pruner, ratio, epsilon, records), seed, figure)

    def votes(self, ratio: str, silos: int, noise: str) -> None:
        """Keep masks of Wanda, of so many silos, which have 2,000 records together."""

        def figure() -> float:
            records = [part for silo in self.text.records(500) for part in silo.chunk(silos // SILOS)]
            exact = noise == "none"
            rule = at_random(ratio) if exact else with_noise(self.weights, silos, ratio, float(noise))
            made = voted(self.weights, records, ratio, rule)
            return perplexity((self.weights, made), self.text.held_out)

        self.measure(f"votes {ratio} {noise} {silos} silos", 1, figure)

    def shares_nothing(self, pruner: str, ratio: str, records: int) -> None:
        def of(texts: Iterable[Tensor]) -> float:
            models = (prune(self.weights, text, Pruner(pruner), ratio) for text in texts)
            return fmean(perplexity((self.weights, model), self.text.held_out) for model in models)

        written = self_sequences(
            self.weights, samples=SELF_SAMPLES, sequence_length=LENGTH, device=CPU, progress=lambda *_: None
        )
        self.measure(row(pruner, ratio, SELF_TEXT, 0), 1, lambda: of([written]))
        self.measure(row(pruner, ratio, ALONE, records), 1, lambda: of(self.text.records(records)))


def voted(
    weights: DenseWeights, records: Sequence[Tensor], ratio: str, expanded: Callable[[NDArray[np.int64], str], Tensor]
) -> dict[str, Tensor]:
    """What keep masks of Wanda come to, by name. `expanded` makes a keep mask of the counts of a tensor."""
    masks = [prune(weights, text, Pruner.WANDA, ratio) for text in records]
    return {name: expanded(sum(mask[name].numpy().astype(np.int64) for mask in masks), name) for name in masks[0]}


def with_noise(
    weights: DenseWeights, silos: int, ratio: str, votes: float
) -> Callable[[NDArray[np.int64], str], Tensor]:
    """Expand counts to which each silo has added noise of so many votes."""
    units, words = round(2**VOTE_BITS / votes), SystemWords()

    def expanded(counts: NDArray[np.int64], name: str) -> Tensor:
        noise = sum(discrete_gaussian(counts.size, VOTE_BITS, words) for _ in range(silos))
        noisy = NoisyCounts(
            name, silos, False, counts * units + noise.reshape(counts.shape), units, silos * 4**VOTE_BITS
        )
        return expand_noisy(noisy, weights.tensor(name), Sparsity(Decimal(ratio), ComparisonGroup.LAYER)).keep

    return expanded


def at_random(ratio: str) -> Callable[[NDArray[np.int64], str], Tensor]:
    """Expand exact counts as FedPrLLM does, ties at random."""
    random = torch.Generator().manual_seed(1)

    def expanded(counts: NDArray[np.int64], _: str) -> Tensor:
        ties = torch.rand(counts.shape, generator=random)
        return expand(torch.from_numpy(counts), ties, Sparsity(Decimal(ratio), ComparisonGroup.LAYER))

    return expanded


class SystemWords:
    """Random words of the operating system."""

    def take(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(secrets.token_bytes(8 * count), np.uint64)


def row(pruner: str, ratio: str, how: str, records: int) -> str:
    return f"{pruner} {ratio} {how} {records}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Perplexity by epsilon and by records of a silo.")
    parser.add_argument("--epsilons", nargs="*", choices=EPSILONS, default=EPSILONS)
    parser.add_argument("--records", nargs="*", type=int, choices=RECORDS, default=RECORDS)
    parser.add_argument("--pruners", nargs="*", choices=PRUNERS, default=PRUNERS)
    parser.add_argument("--ratios", nargs="*", choices=RATIOS, default=RATIOS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--nothing-shared", action="store_true", help="also what shares nothing")
    parser.add_argument("--votes", action="store_true", help="also keep masks, without noise and with it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to go on with")
    parser.add_argument("--write-docs", action="store_true", help=f"only write {PAGE} and {PICTURE}, of kept rows")
    given = parser.parse_args()
    if given.write_docs:
        rows = json.loads(given.results.read_text())
        PAGE.write_text(page(rows))
        PICTURE.write_text(picture(rows))
        return
    with TemporaryDirectory() as folder:
        bench = Bench(given.results, Path(folder))
        for ratio in given.ratios:
            if given.votes:
                for silos in (SILOS, 4 * SILOS):
                    for noise in VOTE_NOISES:
                        bench.votes(ratio, silos, noise)
            for pruner in given.pruners:
                if given.nothing_shared:
                    bench.shares_nothing(pruner, ratio, 500)
                for records in given.records:
                    for epsilon in given.epsilons:
                        bench.federated(pruner, ratio, epsilon, records, given.seeds)
    publish({}, setting={"record_tokens": RECORD, "delta": DELTA, "silos": SILOS}, rows=bench.rows)


if __name__ == "__main__":
    main()
