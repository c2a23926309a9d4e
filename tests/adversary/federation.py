"""Honest silos as a dishonest aggregator sees them: what it can ask of each, and what each does by its rules.

Cryptography is taken for what it promises: nobody signs in an honest silo's name, and a sum opens over a survivor set
exactly when t signed it and t reveal shares for it. Whatever decides is the product's own code, or in a test a rule in
its place.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import nan
from typing import Final

from adversary.knowledge import Answer, Sum, isolated
from adversary.questions import Question, members
from crypto.errors import SparsiloError
from crypto.privacy.accountant import combined_multiplier
from crypto.privacy.events import PrivacyEvent

ROUNDING: Final = 1e-6
"""By how much noise may fall short: the accountant finds an epsilon by trying."""


@dataclass(frozen=True, eq=False)
class Part:
    """What an honest silo keeps of one round in which it took part."""

    question: Question
    signed: int = 0
    """The survivors that it signed."""
    confirmed: bool = False
    """Whether it saw that t silos signed them."""
    never_opens: bool = False
    """Whether it saw that enough silos withdrew."""


@dataclass(frozen=True)
class Rules:
    """What an honest silo decides by. Each raises SparsiloError where the silo does not go on."""

    covers: Callable[[Question], None]
    """Whether policy allows a plan."""
    may_take_part: Callable[[Question, Sequence[Part]], None]
    """Whether it computes and sends words, after what it took part in."""
    may_spend: Callable[[Question, Sequence[Part]], None]
    """Whether its privacy budget has room for the question, after what it took part in."""
    may_sign: Callable[[Question, int, Sequence[Part]], None]
    """Whether it signs survivors, after what it took part in."""
    answers: Callable[[float], None]
    """Whether it has an answer where the plan's model makes this number of its text."""
    threshold: Callable[[Question], int]
    """How many signatures, and then how many shares, open a sum."""
    enough: Callable[[Question], int]
    """How many silos have to withdraw from a round, so that a silo takes it for one that never opens."""
    least_multiplier: float
    """How much noise, over what one unit contributes, its budget wants in everything opened together; 0: any."""


class Federation:
    """Silos 0 to n - 1, `colluders` among them, in rounds that may overlap in time; each silo is in one at a time."""

    def __init__(self, silos: int, colluders: int, fewest: int, rules: Rules) -> None:
        """`fewest`: how many honest silos everything that comes to be known must be about, at least."""
        self.colluders, self.fewest, self.rules = colluders, fewest, rules
        self.honest = members(((1 << silos) - 1) & ~colluders)
        self.opened: dict[tuple[Question, int], frozenset[Sum]] = {}
        """Every sum that came open, by question and survivors: for each block the answers that it is made of."""
        self.told_apart: set[int] = set()
        """Silos whose replies depend on their text."""
        self._parts: dict[int, dict[Question, Part]] = {silo: {} for silo in self.honest}
        self._present: dict[int, Question | None] = dict.fromkeys(self.honest)
        self._uploaded: dict[Question, int] = {}
        self._signed: dict[tuple[Question, int], int] = {}
        self._revealed: dict[tuple[Question, int], int] = {}
        self._withdrew: dict[Question, int] = {}

    def offer(self, question: Question, silo: int) -> bool:
        """Ask the silo to leave its round for another; whether it uploads its words."""
        parts = self._parts[silo]
        if question in parts or not question.silos >> silo & 1:
            return False
        try:
            self.rules.covers(question)
            self.rules.may_take_part(question, [*parts.values()])
            self.rules.may_spend(question, [*parts.values()])
        except SparsiloError:
            return False
        if question.is_trap and len({self._reply(number) for number in (0.25, nan, 1e30)}) > 1:
            self.told_apart.add(silo)
        parts[question], self._present[silo] = Part(question), question
        self._uploaded[question] = self._uploaded.get(question, question.silos & self.colluders) | 1 << silo
        return True

    def show(self, question: Question, silo: int, survivors: int) -> bool:
        """Tell the silo who survived; whether it signs that."""
        part = self._parts[silo].get(question)
        if part is None or part.signed or self._present[silo] is not question or not survivors >> silo & 1:
            return False
        if survivors & ~self._uploaded[question] or survivors.bit_count() < question.round.least_survivors:
            return False
        try:
            self.rules.may_sign(question, survivors, [*self._parts[silo].values()])
        except SparsiloError:
            return False
        self._parts[silo][question] = replace(part, signed=survivors)
        self._signed[question, survivors] = self._signed.get((question, survivors), 0) | 1 << silo
        return True

    def confirm(self, question: Question, silo: int) -> bool:
        """Show the silo the signatures over the survivors that it signed; whether they are enough to reveal shares."""
        part = self._parts[silo].get(question)
        if part is None or not part.signed or part.confirmed or self._present[silo] is not question:
            return False
        over, least = (question, part.signed), self.rules.threshold(question)
        if (self._signed[over] | part.signed & self.colluders).bit_count() < least:
            return False
        self._parts[silo][question] = replace(part, confirmed=True)
        self._revealed[over] = self._revealed.get(over, 0) | 1 << silo
        if (self._revealed[over] | question.silos & self.colluders).bit_count() >= least:
            self._open(question, part.signed)
        return True

    def withdraw(self, question: Question, silo: int) -> bool:
        """End the silo's round; whether it says that it revealed nothing, and never will."""
        part = self._parts[silo].get(question)
        if part is None or part.confirmed:
            return False
        if self._present[silo] is question:
            self._present[silo] = None
        self._withdrew[question] = self._withdrew.get(question, 0) | 1 << silo
        return True

    def settle(self, question: Question, silo: int) -> bool:
        """Show the silo all withdrawals, the colluders' too; whether it takes the round for one that never opens."""
        withdrew = (self._withdrew.get(question, 0) | question.silos & self.colluders).bit_count()
        if not self.withdraw(question, silo) or withdrew < self.rules.enough(question):
            return False
        self._parts[silo][question] = replace(self._parts[silo][question], never_opens=True)
        return True

    def is_bound(self, question: Question, silo: int) -> tuple[bool, int]:
        """Whether the silo is in another round than this, and the rounds whose survivors it saw confirmed."""
        confirmed = sum(part.confirmed for part in self._parts[silo].values())
        return self._present[silo] is not question, confirmed

    def isolated(self) -> frozenset[int]:
        """Too few honest silos, whose answers alone some combination of the opened sums is about; or nobody."""
        return isolated(frozenset().union(*self.opened.values()), self.fewest)

    def overspent(self) -> frozenset[int]:
        """Honest silos of one unit of whose text all opened sums together tell more than a budget allows."""
        least = self.rules.least_multiplier * (1 - ROUNDING)
        return frozenset(silo for silo in self.honest if least and combined_multiplier(self._told(silo)) < least)

    def combined(self) -> list[tuple[Question, int]]:
        """The fewest sums, by question and survivors, that are enough to tell of too few silos."""
        for size in range(1, len(self.opened) + 1):
            for some in combinations(self.opened, size):
                if isolated(frozenset().union(*(self.opened[one] for one in some)), self.fewest):
                    return [*some]
        return []

    def _told(self, silo: int) -> Iterator[PrivacyEvent]:
        """Yield what each sum with the silo's words tells, by the noise that is in it: that of all who survived but
        the colluders, or but one where another silo looks on.
        """
        for question, survivors in self.opened:
            if survivors >> silo & 1:
                yield question.tells(survivors.bit_count() - max(1, (survivors & self.colluders).bit_count()))

    def _reply(self, number: float) -> str:
        """What a silo says where the plan's model makes this number of its text."""
        try:
            self.rules.answers(number)
        except SparsiloError as error:
            return error.code
        return "words"

    def _open(self, question: Question, survivors: int) -> None:
        blocks: dict[int, set[Answer]] = {}
        for silo in members(survivors & ~self.colluders):
            for block, answer in question.answers(silo):
                blocks.setdefault(block, set()).add(answer)
        self.opened[question, survivors] = frozenset(frozenset(answers) for answers in blocks.values())
