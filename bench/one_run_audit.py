"""How far opened sums tell which records are in them, with noise and without, beside what epsilon promises.

Run `make privacy-audit`; with `--write-docs` it also writes the second part of docs/privacy-audit.md. The audit is that
of Steinke, Nasr and Jagielski ("Privacy auditing with one (1) training run", 2023, arXiv 2305.08846). A coin is thrown
for each of some records, the canaries: one is there, or it is empty, and then it contributes nothing. Whoever sees what
is opened says of the records that it is surest of whether they are there. How often that is right bounds the epsilon
that is really kept from below.

A round's lanes come from the code of a run, from the plan's clip to the noise; secure aggregation is left out, as it
adds nothing to a sum. The plan is one-shot: one round with the energies of all blocks of the dense model, for which
epsilon is spent as for a round a block. So what a record contributes does not depend on what is opened, and is computed
once. Its runs are independent, each has all canaries, and each throws anew. A canary of one run does nothing in
another: so all runs together keep for each of their coins what one keeps, and count as one run with more canaries.

Four choices make the attack strong. Canaries are the records that would contribute most if nothing was clipped; so each
contributes as much as it may. There are few of them in a run, for each hides the others. The attacker is a silo that
has no canaries: it takes its own share of the noise off. It knows the model, the plan and what each canary contributes,
and reckons with all of them at once. Prints one JSON document; exits with 1 where a sum tells more than is promised, or
where the audit does not see a fault that was planted in the code.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.document import Claims, at_least, at_most, progress, publish
from bench.energies_in_one_place import DELTA, RECORD, planned, run_over, without_noise
from bench.machine import facts
from bench.privacy_audit import NOISE_PART, PAGE, keep_counts, model_and_sequences
from bench.what_guesses_prove import (
    GUESSED,
    SURE,
    Figures,
    Floats,
    Members,
    gaussian_advantage,
    log_odds,
    most_advantage,
)
from crypto.names import Pruner, Schedule
from crypto.plan import Plan
from crypto.privacy.accountant import combined_multiplier
from crypto.privacy.clipping import contribution
from crypto.privacy.mechanisms.discrete_gaussian import RandomWords, discrete_gaussian
from crypto.privacy.noise_shares import SHARE_BITS, noise_shares
from crypto.releases.energies import CLIPPED_SECTION
from crypto.releases.release_spec import events_of
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.opened_sums.opened_rounds import Start
from silo_agent.releases import contributed_energies, noise
from silo_agent.releases.noise import Noise, NoisyRelease
from silo_agent.releases.silo_side import SiloRelease
from silo_agent.rounds.run_pruning import RunPruning

SILOS = 4
CANDIDATES, CANARIES = 1000, 48
RUNS, EXACT_RUNS, EXPECTED = 400, 80, 20
RATIO = "0.7"
SMALLER = 10
UNEXPLAINED = 0.1  # of keep counts, beside what a record does to them; a guess
FAR = 256  # times the clip: no record is so long


class Fault(StrEnum):
    """What is planted in the code that is audited."""

    NONE = ""
    NO_CLIP = "no clip"
    LITTLE_NOISE = f"noise {SMALLER} times too small"

    def planted(self) -> AbstractContextManager[object]:
        match self:
            case Fault.NO_CLIP:
                return patch.object(contributed_energies, "contribution", unclipped)
            case Fault.LITTLE_NOISE:
                return patch.object(noise, "discrete_gaussian", little_noise)
        return nullcontext()


@dataclass(frozen=True)
class Case:
    """What is opened, and what is promised of it; None: nothing."""

    opened: str
    epsilon: float | None = None
    fault: Fault = Fault.NONE


VOTES, ENERGIES = Case("votes"), Case("energies")
NOISY = tuple(Case("energies", epsilon) for epsilon in (16.0, 4.0, 1.0))
FAULTY = tuple(
    Case("energies", epsilon, fault) for fault in (Fault.NO_CLIP, Fault.LITTLE_NOISE) for epsilon in (4.0, 1.0)
)


def unclipped(values: Floats, radius: float, clip: int) -> NDArray[np.int64]:
    return contribution(values, radius * FAR, clip * FAR)


def little_noise(count: int, bits: int, random: RandomWords) -> NDArray[np.int64]:
    return discrete_gaussian(count, bits, random) // SMALLER


# What is opened


class Audit:
    """The canaries, and what the dense model makes of each alone."""

    def __init__(self, weights: DenseWeights, candidates: Tensor, canaries: int) -> None:
        """`candidates`: records of which the canaries are chosen, int64 [some, RECORD]."""
        self._weights, self._records, self._random = weights, candidates, np.random.default_rng(0)
        plan = self.plan_with(1.0)
        of_blocks = self._run(plan, range(len(candidates))).energies_of_units(Start(plan))
        self._energies = [list(of_units) for of_units in of_blocks]
        with Fault.NO_CLIP.planted():
            longest = np.linalg.norm(self._contributions(plan), axis=1).argsort()[-canaries:]
        self._records = candidates[longest]
        self._energies = [[of_units[place] for place in longest] for of_units in self._energies]

    def plan_with(self, epsilon: float | None) -> Plan:
        samples, schedule = len(self._records), Schedule.ONE_SHOT
        return planned(self._weights, Pruner.WANDA, RATIO, epsilon, silos=SILOS, samples=samples, schedule=schedule)

    def figures(self, case: Case, runs: int) -> Figures:
        """Return how well the attacker does in so many runs."""
        members = self._random.random((runs, len(self._records))) < 0.5
        if case == VOTES:
            return Figures.of(self._of_votes(members), members)
        plan = self.plan_with(case.epsilon)
        with case.fault.planted():
            opened = np.stack([self._opened(plan, present) for present in map(np.flatnonzero, members)])
            contributions = self._contributions(plan)
        if case.epsilon is None:  # an exact sum is off by what float32 and batches round
            return Figures.of(log_odds(contributions, opened, np.maximum(contributions.mean(0) * 1e-3, 1)), members)
        deviation = sqrt(noise_shares(plan)) * 2**SHARE_BITS / (SMALLER if case.fault is Fault.LITTLE_NOISE else 1)
        return Figures.of(log_odds(contributions, opened, deviation), members)

    def _of_votes(self, members: Members) -> Floats:
        """Return scores by how the keep counts of unusually strong inputs lie above the expected ones.

        Expected are the means of runs that the attacker makes up. How far one record moves a count it does not know, so
        the scores are odds up to a factor.
        """
        known = self._random.random((EXPECTED, len(self._records))) < 0.5
        counts = np.stack([self._counts(present) for present in (*known, *members)])
        surprise = counts[EXPECTED:] - counts[:EXPECTED].mean(0)
        alone = np.stack([self._alone(canary) for canary in range(len(self._records))])
        unusual = (alone - alone.mean(0)) / np.maximum(alone.std(0), alone.mean(0) * 1e-6)
        unusual /= np.linalg.norm(unusual, axis=1, keepdims=True)
        return log_odds(unusual, surprise + unusual.sum(0) / 2, UNEXPLAINED)

    def _counts(self, present: NDArray[np.bool_]) -> Floats:
        """Return for each input how many of its weights are kept by the silos that have the canaries, in turn."""
        silos = [np.flatnonzero(present[at :: SILOS - 1]) * (SILOS - 1) + at for at in range(SILOS - 1)]
        return keep_counts(self._weights, [self._records[places] for places in silos if len(places)], RATIO)

    def _alone(self, canary: int) -> Floats:
        """Return the energies of a canary at every prunable tensor's inputs, as `keep_counts` orders them."""
        by_name = {name: energy for of_units in self._energies for name, energy in of_units[canary].items()}
        return torch.cat([by_name[name] for name in self._weights.prunable]).double().numpy()

    def _opened(self, plan: Plan, present: NDArray[np.int64]) -> Floats:
        """Return the lanes of a round in which some canaries are there, less the attacker's own share of noise."""
        release = self._released(plan, present.tolist())
        if plan.pruning.clip:
            release = NoisyRelease(release, Noise(self._random.bytes(32), bytes(32), noise_shares(plan)))
        return lanes(plan, release)

    def _contributions(self, plan: Plan) -> Floats:
        """Return what each canary contributes to each lane: float64 [canaries, lanes]."""
        return np.stack([lanes(plan, self._released(plan, [canary])) for canary in range(len(self._records))])

    def _released(self, plan: Plan, present: Sequence[int]) -> SiloRelease:
        """Return what silos release whose records are some of the canaries, without noise."""
        run, start = self._run(plan, present), Start(plan)
        return without_noise(start, partial(run.statistics, start), lambda: self._of_units(present))

    def _of_units(self, present: Sequence[int]) -> Iterable[Iterable[Mapping[str, Tensor]]]:
        """Yield what `RunPruning.energies_of_units` yields: the dense model makes the same of a record each time."""
        return ((of_units[canary] for canary in present) for of_units in self._energies)

    def _run(self, plan: Plan, present: Sequence[int]) -> RunPruning:
        return run_over(self._weights, plan, self._records[list(present)], Path())


def lanes(plan: Plan, release: SiloRelease) -> Floats:
    """Return all lanes of the plan's first round that have statistics, as signed numbers."""
    chunks = [chunk for chunk in Start(plan).round.layout.chunks if chunk.section.name != CLIPPED_SECTION]
    words = np.concatenate([release.lanes(chunk) for chunk in chunks]).astype(np.uint64)
    return words.view(np.int64).astype(np.float64)


# The page


def claims_of(measured: Mapping[Case, Figures]) -> Claims:
    """What is promised must hold, and a fault must show."""
    claims: Claims = {}
    for case, figures in measured.items():
        if case.epsilon is not None and not case.fault:
            bound = most_advantage(case.epsilon, DELTA)
            claims[f"advantage at epsilon {case.epsilon:g}"] = at_most(figures.advantage, bound)
            claims[f"epsilon shown of {case.epsilon:g}"] = at_most(figures.least_epsilon, case.epsilon)
        elif case.epsilon is not None:
            claims[f"epsilon shown of {case.epsilon:g}, {case.fault}"] = at_least(figures.least_epsilon, case.epsilon)
    return claims


def markdown(measured: Mapping[Case, Figures], allowed: Mapping[float, float]) -> str:
    """`allowed` has by epsilon the largest advantage of any attack against so much noise."""
    lines = [
        "| what is opened | epsilon promised | advantage | bound by epsilon | bound by the noise | AUC | guesses right "
        "| epsilon is at least |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case, of in measured.items():
        what = f"{case.opened}, planted: {case.fault}" if case.fault else case.opened
        promised = "none" if case.epsilon is None else f"{case.epsilon:g}"
        bounds = (most_advantage(case.epsilon, DELTA), 1.0 if case.epsilon is None else allowed[case.epsilon])
        rates = " | ".join(f"{rate:.3f}" for rate in (of.advantage, *bounds, of.auc))
        lines.append(f"| {what} | {promised} | {rates} | {of.right} of {of.guesses} | {of.least_epsilon:.2f} |")
    return "\n".join(lines)


def part(measured: Mapping[Case, Figures], allowed: Mapping[float, float], *, runs: int, exact_runs: int) -> str:
    machine = facts()
    return f"""
`python -m bench.one_run_audit --write-docs` rewrites this part.

With `--epsilon` silos add noise to `energies`, and [a promise](privacy.md) bounds what anybody can tell. This part
holds the code against it, by a one-run audit (Steinke, Nasr and Jagielski, *Privacy auditing with one (1) training
run*, 2023, arXiv 2305.08846). For each of {CANARIES} records of {RECORD} tokens a coin says whether it is there,
or empty. {SILOS} silos release through the code of a run, in a one-shot plan: the energies of all blocks of the dense
model, at delta {DELTA:.6f}. Of {CANDIDATES} records of held-out docstrings these are the ones that would contribute
most if nothing was clipped; so each contributes as much as it may.

The attacker is a silo that has none of these records. It knows the dense model, the plan, its own share of the noise,
and what each record contributes. From the opened sum it estimates which are there, all of them at once. Without noise
it does the same with the exact sum. Of votes (Wanda, ratio {RATIO}) it takes the counts of the other {SILOS - 1}
silos, and does the same with the inputs that are unusually strong in a record, and whose weights are kept more often
than expected. Silos have few records here, and the attacker knows which these may be: so votes tell more than above.

- *Advantage* is the rate of true positives less that of false ones, at a threshold that one half of the runs chose for
  the other half. With noise its standard error is about {sqrt(1 / (runs * CANARIES)):.3f}.
- *Bound by epsilon* is the most that epsilon and delta allow: (exp(e) - 1 + 2d) / (exp(e) + 1).
- *Bound by the noise* is the most that anybody gets against Gaussian noise of this size, even who knows all records but
  one. It is smaller, because the promise's delta is small.
- *Guesses right*: the attacker says what it believes of the {GUESSED:.0%} of the records that it is surest of.
- *Epsilon is at least*: what these guesses prove of the epsilon that is kept, with {SURE:.0%} confidence. It is to be
  below the promised one. Exact sums keep none; what is proven of them grows with the number of guesses.

The last rows have a fault planted in the code: a record's contribution is not clipped, or each silo's noise is
{SMALLER} times too small. There the audit has to prove more than was promised, or else it would be blind.

{markdown(measured, allowed)}

{runs} runs with noise and {exact_runs} without, each with coins of its own. This is no proof: that is [in five
steps](privacy.md#5-why-it-holds). It would show a promise that the code breaks by far.

Measured on {machine["cpu"]} with Python {machine["python"]} and torch {version("torch")}.
"""


def write(text: str) -> None:
    """Replace the second part of the page."""
    first, *_ = PAGE.read_text().partition(NOISE_PART)
    PAGE.write_text(first + NOISE_PART + text)


def main() -> None:
    """Audit every case, and print or write what came out."""
    parser = argparse.ArgumentParser(description="How far opened sums tell which records are in them.")
    parser.add_argument("--write-docs", action="store_true", help=f"write the second part of {PAGE}")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs with noise; by few no fault is seen")
    parser.add_argument("--exact-runs", type=int, default=EXACT_RUNS, help="runs without noise, which take longer")
    given = parser.parse_args()
    weights, sequences = model_and_sequences()
    audit, measured = Audit(weights, sequences.view(-1, RECORD)[:CANDIDATES], CANARIES), {}
    for case in (VOTES, ENERGIES, *NOISY, *FAULTY):
        measured[case] = audit.figures(case, given.exact_runs if case.epsilon is None else given.runs)
        progress(case, measured[case])
    plans = {case.epsilon: audit.plan_with(case.epsilon) for case in NOISY if case.epsilon}
    allowed = {epsilon: gaussian_advantage(combined_multiplier(events_of(plan))) for epsilon, plan in plans.items()}
    if given.write_docs:
        write(part(measured, allowed, runs=given.runs, exact_runs=given.exact_runs))
    rows = [asdict(case) | asdict(figures) for case, figures in measured.items()]
    setting = {"runs": given.runs, "exact_runs": given.exact_runs, "canaries": CANARIES, "delta": DELTA}
    publish(claims_of(measured), setting=setting, bounds_by_the_noise=allowed, membership=rows)


if __name__ == "__main__":
    main()
