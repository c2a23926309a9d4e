"""What the sums of a plan hide this silo among: who adds what to them, and where that is not much to hide behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from crypto.backends.backend_spec import backend_spec
from crypto.names import ReleaseKind
from crypto.plan import Plan
from crypto.pruning.sparsity import spell_ratio
from crypto.releases.release_spec import spec_of
from crypto.secagg.round import threshold

FEW_HONEST: Final = 5
"""Honest silos: of so many, unlike of fewer, one can be a large institution's part without being most of the sum."""

FEW_SEQUENCES: Final = 64
"""Half of what pruning usually looks at."""

GUESSED: Final = Decimal("0.75")
"""The share of a silo's keep mask that whoever bets on the likelier bit has right."""


@dataclass(frozen=True)
class Contribution:
    """What a plan asks one silo to add to sums about weights."""

    silo: str
    sparsity_ratio: str
    """The share of weights that it prunes, such as 0.5; with OWL a range, such as 0.34 to 0.66."""
    blocks: int
    """The number of blocks that the silo prunes."""


def honest_silos(plan: Plan) -> int:
    """Return how many honest silos each sum of the plan is of at least, and each combination of sums (14.5.1)."""
    return threshold(plan, plan.pruning.cohort_floor) - plan.message.colluders


def contributions(plan: Plan) -> tuple[Contribution, ...]:
    """Return what each silo of the roster is asked for; nothing where no round of the plan prunes."""
    if not _prunes(plan):
        return ()
    capacities, blocks = plan.pruning.capacities, len(plan.block_weights)
    return tuple(Contribution(silo, _ratio(plan, silo), capacities.get(silo, blocks)) for silo in plan.silos)


def hidden_among(plan: Plan) -> str:
    """Say what this silo's part of a sum disappears in."""
    if not backend_spec(plan.backend).hides_words:
        return "nobody: the aggregator sees each silo's own numbers"
    honest = f"at least {honest_silos(plan)} honest silos, this one among them"
    if not _prunes(plan):
        return f"{honest}, each with its own text"
    kept = sorted({1 - end for silo in plan.silos for end in plan.pruning.ratio_range(silo)})
    share = f"{kept[0]:.0%}" if len(kept) == 1 else f"{kept[0]:.0%} to {kept[-1]:.0%}"
    return f"{honest}, each of which keeps {share} of the weights that it prunes"


def weak_points(plan: Plan, silo: str) -> Iterator[str]:
    """Yield where a plan hides `silo` less than another plan could."""
    message, honest = plan.message, honest_silos(plan)
    if not backend_spec(plan.backend).hides_words:
        yield "Nothing is hidden: the aggregator sees this silo's own numbers, whoever else takes part."
    if honest < FEW_HONEST:
        yield f"A sum may be of no more than {honest} honest silos: {honest - 1} together learn the last one's part."
    if message.two_honest_survivors:
        yield "The plan says two_honest_survivors: in so many words, that two honest silos are enough for a sum."
    if not message.colluders:
        yield "The plan reckons with no silo that works with the aggregator: each that does is one less to hide among."
    for ratio, silos in _guessed(plan, silo).items():
        right = max(Decimal(ratio), 1 - Decimal(ratio))
        yield f"{', '.join(silos)} prune to {ratio}: {right:.0%} of their keep masks is known without their text."
    if floor := plan.pruning.cohort_floor:
        yield f"A block is summed over a cohort of {floor} or more of the {len(plan.silos)} silos, not over all."
    for what, sequences in _sequences(plan):
        if sequences < FEW_SEQUENCES:
            yield f"Only {sequences} sequences of {message.pruning.sequence_length} tokens are {what}: that is narrow."


def _prunes(plan: Plan) -> bool:
    """Tell whether silos prune by themselves: what they pool is of their text, which no ratio makes known."""
    specs = [spec_of(plan, index) for index in range(len(plan.message.rounds))]
    return any(spec.prunes and not spec.pools for spec in specs)


def _ratio(plan: Plan, silo: str) -> str:
    return " to ".join(map(spell_ratio, dict.fromkeys(plan.pruning.ratio_range(silo))))


def _guessed(plan: Plan, silo: str) -> dict[str, list[str]]:
    """Return the other silos most of whose keep masks is guessed right, by the ratio nearest to 0 or 1."""
    silos: dict[str, list[str]] = {}
    for other in plan.silos if _prunes(plan) else ():
        ratio = max(plan.pruning.ratio_range(other), key=lambda end: abs(end - Decimal("0.5")))
        if other != silo and max(ratio, 1 - ratio) > GUESSED:
            silos.setdefault(spell_ratio(ratio), []).append(other)
    return silos


def _sequences(plan: Plan) -> Iterator[tuple[str, int]]:
    if any(spec_of(plan, index).prunes for index in range(len(plan.message.rounds))):
        yield "calibrated on", plan.message.pruning.samples
    for index, spec in enumerate(plan.message.rounds):
        if plan.release_kind(index) is ReleaseKind.EVALUATION:
            yield "held out", spec.evaluation.sequences
