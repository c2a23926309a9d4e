"""The ways to a pruned model that both quality benches compare: those of the papers, pooled sums, and sharing nothing.

A way makes the models that a row of the tables is the mean of. Every federated one is a whole run of
`aggregator local`; ties that break in other ways than ours expand the sums that such a run opened once more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest.mock import patch

import torch
from torch import Tensor

from bench.pruned_models import Changed, Silos, federate, prune, prune_by_energies
from crypto.backends.verification import verify_transcript
from crypto.names import Allocation, Pruner, Suite
from crypto.pruning.sparsity import Sparsity
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.identity.own_files import read_roster
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FILE
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.opened_sums.opened_sum import OpenedRound
from silo_agent.pruning.mask_expansion import expand
from silo_agent.releases.silo_side import expanded_tensors

RANDOM_SEEDS: Final = (1, 2, 3)


@dataclass(frozen=True)
class Setting:
    """One kind of silos at one sparsity ratio or pattern."""

    weights: DenseWeights
    silos: Silos
    target: str
    self_text: Tensor
    """Sequences that the model wrote, which need nobody's data."""
    folder: Path
    """Where the runs of this setting are kept, for the ways that start from what they opened."""
    _runs: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def here(self, pruner: Pruner, *texts: Tensor) -> Iterator[Changed]:
        """Yield a model pruned here for each text."""
        return ((self.weights, prune(self.weights, text, pruner, self.target)) for text in texts)

    def here_with_owl(self, pruner: Pruner, text: Tensor) -> Iterator[Changed]:
        """Yield a model whose blocks' sparsity ratios are OWL's of the text too."""
        yield self.weights, prune(self.weights, text, pruner, self.target, Allocation.OWL)

    def by_energies(self, pruner: Pruner) -> Iterator[Changed]:
        """Yield what `--release energies` makes of all silos' text, without a run."""
        pooled = self.silos.pooled
        yield self.weights, prune_by_energies(self.weights, pooled, self.self_text, pruner, self.target)

    def run(self, *options: str) -> Path:
        """Return the folder of a federation's results; one with these options runs once."""
        if options not in self._runs:
            self._runs[options] = self.folder / str(len(self._runs))
            federate(self.weights.folder, self.silos, self._runs[options], self.target, *options)
        return self._runs[options]

    def together(self, *options: str) -> Iterator[Changed]:
        """Yield the model of a federation."""
        yield DenseWeights.open(self.run(*options) / "model"), {}

    def ties_at_random(self, *options: str) -> Iterator[Changed]:
        """Yield what comes of a federation's opened sums when tied weights are zeroed in random order, a seed each."""
        opened = opened_rounds(self.run(*options))
        return ((self.weights, expand_with_random_ties(opened, self.weights, seed)) for seed in RANDOM_SEEDS)

    def ties_by_magnitude(self, *options: str) -> Iterator[Changed]:
        """Yield what comes of a federation's opened sums when of tied weights the smallest are zeroed."""
        yield self.weights, expand_with_ties_by_magnitude(opened_rounds(self.run(*options)), self.weights)


# Other rules for ties


def opened_rounds(out: Path) -> list[OpenedRound]:
    """Return the rounds whose transcripts lie in `out`, in order, each with its signatures verified."""
    opened = []
    for folder in sorted(out.glob("transcript*")):
        roster = read_roster(folder / "roster.yaml", Suite.DEFAULT)
        proven = verify_transcript((folder / TRANSCRIPT_FILE).read_bytes(), roster)
        opened.append(OpenedRound(proven.round, len(proven.survivors), proven.roots[""], folder / SUM_FILE))
    return opened


def expand_with_random_ties(opened: Sequence[OpenedRound], weights: DenseWeights, seed: int) -> dict[str, Tensor]:
    """Return what the last round makes of each tensor when weights of one keep count are zeroed in random order."""
    random = torch.Generator().manual_seed(seed)

    def at_random(keep_counts: Tensor, importance: Tensor, sparsity: Sparsity) -> Tensor:
        return expand(keep_counts, torch.rand(importance.shape, generator=random), sparsity)

    return _expanded(opened, weights, expand=at_random)


def expand_with_ties_by_magnitude(opened: Sequence[OpenedRound], weights: DenseWeights) -> dict[str, Tensor]:
    """Return what the last round makes of each tensor when of weights of one keep count the smallest are zeroed."""
    return _expanded(opened, weights, relative_importance=lambda _counts, _survivors, weight: weight.abs().float())


def _expanded(
    opened: Sequence[OpenedRound], weights: DenseWeights, **rules: Callable[..., Tensor]
) -> dict[str, Tensor]:
    with ExitStack() as patches:
        for name, rule in rules.items():
            patches.enter_context(patch(f"silo_agent.pruning.expansion.{name}", rule))
        tensors = expanded_tensors(Start(opened[0].round.plan, opened), opened[-1], weights)
        return {tensor.name: tensor.changed for tensor in tensors}


# The rows

VOTES, FEDPRLLM, ITERATIVE, SCALED = (
    "votes",
    "FedPrLLM: votes, random ties",
    "votes, iterative",
    "votes, weight scaling",
)
WEIGHTS, FEDSPALLM = "weights", "FedSpaLLM: weights, random ties"
SELF_TEXT, ALONE = "self-text", "alone"
ALONE_SPARSEGPT = f"SparseGPT, {ALONE}"
ENERGIES, GRAM = "energies", "gram"
WITH_OWL = ", OWL"
"""What a row's name ends with whose blocks have sparsity ratios of their own: there is none of an n:m pattern."""

OF_VOTES = ("--release", "votes")
OF_WEIGHTS = ("--release", "weights", "--pruner", "sparsegpt", "--save-transcript")
OF_ENERGIES = ("--release", "energies", "--pruner", "wanda")
SHARED = (*OF_VOTES, "--save-transcript")
SOLVERS: Final = {Pruner.SPARSEGPT: "SparseGPT", Pruner.ADMM: "ADMM", Pruner.ALPS: "ALPS"}


def _of_solver(pruner: Pruner, solver: str) -> dict[str, Callable[[Setting], Iterable[Changed]]]:
    weights = OF_WEIGHTS if pruner is Pruner.SPARSEGPT else ("--release", "weights", "--pruner", pruner)
    return {
        f"{solver}, {SELF_TEXT}": lambda at: at.here(pruner, at.self_text),
        f"{solver}, {ALONE}": lambda at: at.here(pruner, *at.silos.calibration),
        WEIGHTS if pruner is Pruner.SPARSEGPT else f"{WEIGHTS}, {solver}": lambda at: at.together(*weights),
        f"{ENERGIES}, {solver}": lambda at: at.together("--release", "energies", "--pruner", pruner),
        f"{ENERGIES}, {solver}, centralised": lambda at: at.by_energies(pruner),
        f"{GRAM}, {solver}": lambda at: at.together("--release", "gram", "--pruner", pruner),
        f"{GRAM}, {solver}, dense target": lambda at: at.together("--release", "dense_target", "--pruner", pruner),
        f"{solver}, centralised": lambda at: at.here(pruner, at.silos.pooled),
    }


WAYS: Final[Mapping[str, Callable[[Setting], Iterable[Changed]]]] = {
    "dense": lambda at: [(at.weights, {})],
    "magnitude": lambda at: at.here(Pruner.MAGNITUDE, at.silos.pooled),
    f"Wanda, {SELF_TEXT}": lambda at: at.here(Pruner.WANDA, at.self_text),
    f"Wanda, {ALONE}": lambda at: at.here(Pruner.WANDA, *at.silos.calibration),
    VOTES: lambda at: at.together(*SHARED),
    FEDPRLLM: lambda at: at.ties_at_random(*SHARED),
    "votes, ties by magnitude": lambda at: at.ties_by_magnitude(*SHARED),
    ITERATIVE: lambda at: at.together(*OF_VOTES, "--schedule", "iterative"),
    SCALED: lambda at: at.together(*OF_VOTES, "--weight-scaling"),
    f"{VOTES}{WITH_OWL}": lambda at: at.together(*OF_VOTES, "--allocation", "owl"),
    ENERGIES: lambda at: at.together(*OF_ENERGIES),
    f"{ENERGIES}, RIA": lambda at: at.together("--release", "energies", "--pruner", "ria"),
    f"{ENERGIES}{WITH_OWL}": lambda at: at.together(*OF_ENERGIES, "--allocation", "owl"),
    "Wanda, centralised": lambda at: at.here(Pruner.WANDA, at.silos.pooled),
    FEDSPALLM: lambda at: at.ties_at_random(*OF_WEIGHTS),
    "weights, ties by magnitude": lambda at: at.ties_by_magnitude(*OF_WEIGHTS),
    f"{WEIGHTS}{WITH_OWL}": lambda at: at.together(*OF_WEIGHTS, "--allocation", "owl"),
    f"ADMM, {SELF_TEXT}{WITH_OWL}": lambda at: at.here_with_owl(Pruner.ADMM, at.self_text),
    f"{GRAM}, ADMM, attention": lambda at: at.together("--release", "gram", "--pruner", "admm", "--gram", "attention"),
    f"{GRAM}, ADMM{WITH_OWL}": lambda at: at.together("--release", "gram", "--pruner", "admm", "--allocation", "owl"),
    **{name: way for pruner, solver in SOLVERS.items() for name, way in _of_solver(pruner, solver).items()},
}
"""By a row's name, the models that it is the mean of."""


def ways_of(target: str) -> list[str]:
    """Return the names of the rows that there are of a sparsity ratio or pattern."""
    return [name for name in WAYS if not (":" in target and name.endswith(WITH_OWL))]
