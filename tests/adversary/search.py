"""A dishonest aggregator that searches: random sequences of plans, offers, survivors, signatures and aborts.

`make adversary` runs this file for long; `tests/adversary/test_search.py` runs it for seconds.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from adversary.federation import Federation, Rules
from adversary.questions import NAMES, Question, any_question, any_set, names
from adversary.rules import present_rules

POOL: Final = 40
"""Questions among which BATCH sequences draw: making a plan costs more than a sequence."""
BATCH: Final = 400
ROUNDS: Final = 5

Step = Callable[[], object]


@dataclass(frozen=True)
class Break:
    """What the adversary came to know that it must not."""

    silos: frozenset[int]
    """The few silos that it came to know something of, and of no others."""
    sums: Sequence[tuple[Question, int]]
    """The sums that told it, by question and survivors; none where a silo's reply told it."""
    is_beyond_budget: bool = False
    """Whether it is of one unit of the silos' text, and more than their budget allows."""

    @property
    def way(self) -> str:
        """The way in which the adversary came to know it, in words."""
        if self.is_beyond_budget:
            return "more than the privacy budget is told"
        if len(self.sums) < 2:
            return "others' answers are known" if self.sums else "text decides a reply"
        return "cohorts overlap" if any(question.cohort for question, _ in self.sums) else "survivors overlap"

    def __str__(self) -> str:
        sums = (
            f"{'+'.join(names(survivors))} of {question.silos.bit_count()} with t={question.round.threshold}, block "
            f"{question.block}, ratios {'/'.join(question.ratios)} else {question.ratio}, clip {question.clip}"
            for question, survivors in self.sums
        )
        return "\n  ".join((f"{self.way}: {', '.join(NAMES[silo] for silo in sorted(self.silos))} alone", *sums))


def broken(federation: Federation) -> Break | None:
    """Return what the adversary came to know that it must not; None where there is nothing."""
    few = federation.isolated() or frozenset(federation.told_apart)
    if few:
        return Break(few, federation.combined())
    silos = federation.overspent()
    return Break(silos, [*federation.opened], is_beyond_budget=True) if silos else None


def search(
    seed: int,
    rules: Callable[[int, int], Rules] = present_rules,
    any_question: Callable[[random.Random, int, int, int, bool, int], Question | None] = any_question,
) -> Iterator[Federation]:
    """Yield the federation after one sequence after another. `rules`: by colluders and least honest survivors."""
    chance = random.Random(seed)
    while True:
        silos = chance.choice((3, 4, 5, 5, 6, 6, 6))
        colluders = chance.choice((0, 0, 1, min(2, silos - 2)))
        honest = chance.choice((2, 3, 3)) if silos - colluders >= 3 else 2
        are_alike = chance.random() < 0.7
        drawn = (any_question(chance, silos, colluders, honest, are_alike, number) for number in range(POOL))
        pool = [question for question in drawn if question]
        sampled = [question for question in pool if question.cohort]
        together = rules(colluders, honest)
        for _ in range(BATCH if pool else 0):
            federation = Federation(silos, any_mask(chance, silos, colluders), honest, together)
            theme = chance.choice((pool, sampled or pool))
            rounds = min(chance.choice((1, 2, 2, 2, 3, 3, 4, ROUNDS)), len(theme))
            play(federation, chance, chance.sample(theme, rounds))
            yield federation


def any_mask(chance: random.Random, silos: int, size: int) -> int:
    """A random set of so many silos."""
    return sum(1 << silo for silo in chance.sample(range(silos), size))


def play(federation: Federation, chance: random.Random, questions: Sequence[Question]) -> None:
    """Go through rounds about the questions: one after the other, side by side, or as it comes."""
    rounds = [agenda(federation, chance, question) for question in questions]
    order = chance.choice(("one after the other", "side by side", "side by side", "as it comes"))
    if order == "one after the other":
        for waves in rounds:
            for wave in waves:
                take(wave)
    elif order == "side by side":
        for wave in range(5):
            steps = [step for waves in rounds for step in next(waves, ())]
            take(chance.sample(steps, len(steps)) if wave == 0 else steps)
    else:
        while rounds:
            waves = chance.choice(rounds)
            wave = next(waves, None)
            if wave is None:
                rounds.remove(waves)
            else:
                take(wave[: chance.randint(1, len(wave))])


def take(steps: Sequence[Step]) -> None:
    """Have the adversary make these moves, one after the other."""
    for step in steps:
        step()


def agenda(federation: Federation, chance: random.Random, question: Question) -> Iterator[list[Step]]:
    """Yield in up to five waves what the adversary does in a round: whom it asks, whom it tells who survived, to whom
    it shows the signatures, and whom it has withdraw, before that or after.

    It is after the sum over one set. Some silos may be told of another, or of none, or never asked.
    """
    honest = [silo for silo in federation.honest if question.silos >> silo & 1]
    chance.shuffle(honest)
    asked = honest[: chance.randint(1, len(honest))] if honest and chance.random() < 0.2 else honest
    yield [partial(federation.offer, question, silo) for silo in asked]
    able = sum(1 << silo for silo in asked) | question.silos & federation.colluders
    least = question.round.least_survivors
    if able.bit_count() < least:
        return
    target, other = any_set(chance, able, least), any_set(chance, able, least)
    told = [silo for silo in honest if target >> silo & 1]
    if chance.random() < 0.7:  # whoever left for another round signs nothing here, and who confirmed little is free
        told.sort(key=partial(federation.is_bound, question))
    enough = question.round.threshold - (question.silos & federation.colluders).bit_count()
    some = chance.randint(enough, len(told)) if enough < len(told) and chance.random() < 0.4 else len(told)
    shows = [partial(federation.show, question, silo, target) for silo in told[:some]]
    if chance.random() < 0.3:
        shows += [partial(federation.show, question, silo, other) for silo in honest if silo not in told[:some]]
    yield shows
    apart = random.Random(question.round.digest)  # the other moves are what they are without withdrawals
    gone = apart.sample(honest, apart.randint(1, len(honest))) if honest and apart.random() < 0.3 else []
    if gone and apart.random() < 0.3:  # before the others reveal, or after
        yield [partial(federation.withdraw, question, silo) for silo in gone]
    if chance.random() < 0.85:
        some = chance.randint(enough, some) if enough < some and chance.random() < 0.4 else some
        yield [partial(federation.confirm, question, silo) for silo in told[:some]]
    if gone:
        yield [partial(federation.settle, question, silo) for silo in [*gone, *gone]]
