"""What the adversary can ask: real plans, made from a few choices, and what determines each silo's answer."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache, cached_property
from typing import Final

from adversary.knowledge import Answer
from crypto.errors import PlanError
from crypto.plan import Plan, least_threshold
from crypto.plan_rules import check_cohort, checked_plan
from crypto.privacy.events import ExactEvent, GaussianEvent, PrivacyEvent
from crypto.privacy.noise_shares import noise_multiplier
from crypto.secagg.round import Round
from sparsilo.v1 import plan_pb2
from support.plans import plan_message, silo_names

BLOCKS: Final = 2
RATIOS: Final = ("0", "0.05", "0.3", "0.5", "0.5001", "0.95")
"""Silos keep everything at 0, next to everything at 0.05, next to nothing at 0.95, and at 0.5001 what they keep at
0.5.
"""

MULTIPLIERS: Final = (0.0, 3.6, 3.6, 5.0, 5.0, 7.0)
"""How much noise there is over what one person contributes to a sum: a budget of epsilon 2 has room for one, two or
four questions about both blocks. 0 stands for sums without noise.
"""

NAMES: Final = silo_names(6)


def members(mask: int) -> tuple[int, ...]:
    """The silos of a set."""
    return tuple(silo for silo in range(len(NAMES)) if mask >> silo & 1)


@cache
def names(mask: int) -> tuple[str, ...]:
    """The names of a set of silos, ascending."""
    return tuple(NAMES[silo] for silo in members(mask))


@dataclass(frozen=True, eq=False)
class Question:
    """One round that the adversary plans. Sets of silos are masks: bit i is silo i."""

    roster: int
    ratios: tuple[str, ...]
    """The own sparsity ratio of each silo of the roster; "" where it follows the plan's."""
    ratio: str
    """The plan's sparsity ratio."""
    threshold: int
    least_survivors: int
    colluders: int
    two_honest: bool
    cohort: int = 0
    """Whom layer sampling drew, as far as the adversary can choose it; nobody where the whole roster may take part."""
    block: int | None = None
    """The only block that it is about; None: all."""
    is_trap: bool = False
    """Whether its model makes a number of some texts that is no number, or too large."""
    number: int = 0
    """Makes plans of one content differ, as `run` does."""
    clip: int = 0
    """How many units of a sum one person may contribute, where it is one of energies with noise; 0 where of votes."""
    samples: int = 4
    """The plan's number of calibration samples."""
    text: bytes = b"text"
    """What the silos have for calibration when they are asked."""

    @cached_property
    def round(self) -> Round:
        """The round as it is offered. Raises PlanError where the plan or the cohort breaks a rule."""
        round_ = Round(self.plan, self._index, b"", names(self.cohort) if self.cohort else ())
        check_cohort(round_.plan, round_.index, round_.cohort)
        return round_

    @cached_property
    def plan(self) -> Plan:
        """The plan that asks this. Raises PlanError where it breaks a rule."""
        message = plan_message(6, threshold=self.threshold, colluders=self.colluders, shape=(1, 2), tensors=BLOCKS)
        message.least_survivors, message.two_honest_survivors = self.least_survivors, self.two_honest
        message.run = self.number.to_bytes(16, "little")
        keys = {member.silo: member.signing_key for member in message.roster}
        del message.roster[:], message.rounds[:]
        for silo, own in zip(names(self.roster), self.ratios, strict=True):
            capacity = BLOCKS if self.cohort else 0
            message.roster.add(silo=silo, signing_key=keys[silo], sparsity_ratio=own, capacity=capacity)
        for index, tensor in enumerate(message.model):
            tensor.block = index
        message.pruning.sparsity_ratio = self.ratio
        message.pruning.samples = self.samples
        if self.clip:
            message.pruning.clip = self.clip
            message.pruning.epsilon, message.pruning.delta = 1.0, 1e-6  # a promise, which no budget goes by
            for tensor in message.model:
                tensor.scale_exponents = bytes(tensor.shape[1])
        if self.cohort:
            message.pruning.cohort_floor = self.colluders + (2 if self.two_honest else 3)
            message.rounds.add(sampling=plan_pb2.Sampling())
        elif self.block is not None:
            message.pruning.schedule = "iterative"
        for block in range(BLOCKS) if self.block is not None else (None,):
            if self.clip:
                message.rounds.add(energies=plan_pb2.Energies(), block=block)
            else:
                message.rounds.add(votes=plan_pb2.Votes(), block=block)
        return checked_plan(message)

    @property
    def silos(self) -> int:
        """The silos that may take part, as a number whose bit i stands for silo i."""
        return self.cohort or self.roster

    def answers(self, silo: int) -> Iterator[tuple[int, Answer]]:
        """What the silo's words say, block by block; nothing of what whoever made the plan can predict."""
        target = self.round.plan.pruning.silo_sparsity(NAMES[silo]).target
        assert isinstance(target, Decimal)
        said = f"{target:.1f}" if not self.clip else f"energies of {self.samples} samples of {self.text!r}"
        if self.clip or Decimal("0.1") <= target <= Decimal("0.9"):
            for block in self._blocks:
                yield block, (silo, block, said)

    def tells(self, shares: int) -> PrivacyEvent:
        """What its sum tells of one unit of a silo's text, with so many shares of noise that nobody knows."""
        return GaussianEvent(noise_multiplier(self.clip, shares), len(self._blocks)) if self.clip else ExactEvent()

    @property
    def _blocks(self) -> Sequence[int]:
        return range(BLOCKS) if self.block is None else (self.block,)

    @property
    def _index(self) -> int:
        return (1 if self.cohort else 0) + (self.block or 0)


def any_question(
    chance: random.Random, silos: int, colluders: int, honest: int, are_alike: bool, number: int
) -> Question | None:
    """A question drawn at random among so many silos, of which colluders and `honest` others at least are in every sum;
    None where the choices break a rule of plans.

    `are_alike`: all silos have one ratio, always the same, and rounds about a block are about one.
    """
    everybody = (1 << silos) - 1
    least = colluders + honest
    roster = everybody if chance.random() < 0.5 else any_set(chance, everybody, min(silos, max(3, least)))
    size = roster.bit_count()
    cohort, block = 0, chance.choice((None, 0 if are_alike else chance.randrange(BLOCKS)))
    if block is not None and size >= least and chance.random() < 0.7:
        cohort = any_set(chance, roster, least)
    threshold = max(least_threshold(size, colluders, honest), chance.choice((0, 0, 0, least, size)))
    question = Question(
        *(roster, any_ratios(chance, size) if not are_alike else ("0.5",) * size, chance.choice(RATIOS[2:5])),
        *(threshold, max(threshold, least, chance.choice((0, 0, 0, size))), colluders, honest == 2),
        *(cohort, block, chance.random() < 0.1, number),
    )
    return _checked(question)


def any_question_about_people(
    chance: random.Random, silos: int, colluders: int, honest: int, are_alike: bool, number: int
) -> Question | None:
    """As `any_question`, mostly with noise on sums of energies; over one of two texts."""
    question = any_question(chance, silos, colluders, honest, are_alike, number)
    multiplier, text = chance.choice(MULTIPLIERS), chance.choice((b"text", b"another"))
    samples = 4 if are_alike else chance.choice((4, 8))
    if question is None or not multiplier:
        return question
    clip = int(noise_multiplier(multiplier, question.least_survivors - max(1, colluders)))
    ratios = ("",) * len(question.ratios)
    noisy = replace(question, ratios=ratios, cohort=0, is_trap=False, clip=clip, samples=samples, text=text)
    return _checked(noisy)


def _checked(question: Question) -> Question | None:
    """The question, or None where its choices break a rule of plans."""
    try:
        _ = question.round  # its rules are checked where it is made
    except PlanError:
        return None
    return question


def any_ratios(chance: random.Random, silos: int) -> tuple[str, ...]:
    """The silos' own ratios: mostly all alike, so that one question can be asked in many plans."""
    kind = chance.random()
    if kind < 0.5:
        return (chance.choice(("", "0.5")),) * silos
    ratios = [chance.choice(RATIOS)] * silos
    ratios[chance.randrange(silos)] = chance.choice(("", *RATIOS))
    return tuple(ratios)


def any_set(chance: random.Random, of: int, least: int) -> int:
    """A random set of at least so many of those silos, often all or all but one."""
    silos = members(of)
    missing = chance.choice((0, 0, 1, 1, len(silos)))
    size = max(least, len(silos) - missing) if missing < len(silos) else chance.randint(least, len(silos))
    return sum(1 << silo for silo in chance.sample(silos, size))
