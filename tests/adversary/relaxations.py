"""Rules as they might have been: each lacks one thing that the present rules have, and the search must find what it
was for.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Final

from adversary.federation import Part, Rules
from adversary.knowledge import isolated
from adversary.questions import Question, members, names
from adversary.rules import charge, present_rules, row, rows, rules_with_a_budget
from crypto.errors import PlanError, ReleaseRefused
from crypto.privacy.accountant import combined_multiplier
from crypto.privacy.events import PrivacyEvent
from silo_agent.consent.ledger import check_release, check_survivors

Make = Callable[[int, int], Rules]


def without_ratio_bounds(colluders: int, honest: int) -> Rules:
    """A plan may give any silo any sparsity ratio."""
    return replace(present_rules(colluders, honest), covers=lambda question: None)


def without_the_unknown(colluders: int, honest: int) -> Rules:
    """A silo forgets rounds whose survivors it never saw confirmed."""
    return _remembering(colluders, honest, lambda part: [part] if part.confirmed else [])


def ratios_that_change_for_some(colluders: int, honest: int) -> Rules:
    """A silo does not look at what others are asked to prune to."""

    def may_take_part(question: Question, parts: Sequence[Part]) -> None:
        wanted, *ledger = (replace(one, ratios=()) for one in rows([Part(question), *parts]))
        check_release(wanted, ledger)

    return replace(present_rules(colluders, honest), may_take_part=may_take_part)


def any_survivors_signed(colluders: int, honest: int) -> Rules:
    """A silo signs any survivors in a round that it takes part in."""
    return replace(present_rules(colluders, honest), may_sign=lambda question, survivors, parts: None)


def no_sums_close(colluders: int, honest: int) -> Rules:
    """A silo compares survivors that it signed two at a time, and refuses sets that differ by few."""

    def may_sign(question: Question, survivors: int, parts: Sequence[Part]) -> None:
        for part in _signed(question, parts):
            if _are_close(survivors, part.signed, question.colluders):
                raise ReleaseRefused("close")

    return replace(present_rules(colluders, honest), may_take_part=_anything, may_sign=may_sign)


def no_few_in_the_span(colluders: int, honest: int) -> Rules:
    """A silo refuses survivors where it can combine the sums that it signed itself to a sum over few silos."""

    def may_sign(question: Question, survivors: int, parts: Sequence[Part]) -> None:
        sets = [part.signed for part in _signed(question, parts)]
        sums = frozenset(frozenset((silo, 0, "") for silo in members(mask)) for mask in (*sets, survivors))
        if isolated(sums, colluders + honest):
            raise ReleaseRefused("few")

    return replace(present_rules(colluders, honest), may_take_part=_anything, may_sign=may_sign)


def quorums_that_need_not_meet(colluders: int, honest: int) -> Rules:
    """Half of the silos can open a sum."""
    present = present_rules(colluders, honest)
    return replace(present, threshold=lambda question: question.silos.bit_count() // 2)


def text_decides_who_answers(colluders: int, honest: int) -> Rules:
    """A silo refuses where an answer is no number."""

    def answers(number: float) -> None:
        if not isfinite(number):
            raise PlanError("no number")

    return replace(present_rules(colluders, honest), answers=answers)


def rules_before(colluders: int, honest: int) -> Rules:
    """A question is answered once, own ratios aside; rosters and survivors must not be close; ratios have no bounds;
    text decides who answers.
    """

    def may_take_part(question: Question, parts: Sequence[Part]) -> None:
        for part in parts:
            if (part.question.ratio, part.question.block) == (question.ratio, question.block):
                raise ReleaseRefused("asked before")
            if _are_close(question.roster, part.question.roster, colluders):
                raise ReleaseRefused("close")

    return replace(
        no_sums_close(colluders, honest),
        covers=without_ratio_bounds(colluders, honest).covers,
        may_take_part=may_take_part,
        answers=text_decides_who_answers(colluders, honest).answers,
    )


RELAXATIONS: Final[dict[str, Make]] = {
    make.__name__: make
    for make in (
        *(without_ratio_bounds, without_the_unknown, ratios_that_change_for_some, any_survivors_signed, no_sums_close),
        *(no_few_in_the_span, quorums_that_need_not_meet, text_decides_who_answers),
    )
}


def asked_again_is_free(colluders: int, honest: int) -> Rules:
    """A silo does not count what it spent on a question when it is asked the same in another plan."""

    def is_another(question: Question, part: Part) -> bool:
        return _content(question) != _content(part.question)

    return _counting(colluders, honest, is_another)


def each_plan_by_itself(colluders: int, honest: int) -> Rules:
    """A silo compares each plan alone with its budget."""
    return _counting(colluders, honest, lambda question, part: False)


def each_text_has_a_budget(colluders: int, honest: int) -> Rules:
    """A silo that changes its text begins its budget anew, though the new text may be of the same people."""
    return _counting(colluders, honest, lambda question, part: question.text == part.question.text)


def all_noise_counts(colluders: int, honest: int) -> Rules:
    """A silo reckons with the noise of all survivors, also of those who look on and know their own."""
    return _spending(colluders, honest, lambda question: (question.tells(question.least_survivors),))


def exact_sums_are_free(colluders: int, honest: int) -> Rules:
    """A silo with a budget answers without noise too, and charges nothing for it."""
    spending = _spending(colluders, honest, lambda question: charge(question).events if question.clip else ())
    return replace(spending, covers=present_rules(colluders, honest).covers)


RELAXATIONS_OF_THE_BUDGET: Final[dict[str, Make]] = {
    make.__name__: make
    for make in (
        *(asked_again_is_free, each_plan_by_itself, each_text_has_a_budget),
        *(all_noise_counts, exact_sums_are_free),
    )
}


def _are_close(some: int, others: int, colluders: int) -> bool:
    """Whether two sets differ, and each lacks at most one and the colluders of the other."""
    return 1 <= max((some & ~others).bit_count(), (others & ~some).bit_count()) <= 1 + colluders


def _anything(question: Question, parts: Sequence[Part]) -> None:
    """Take part in everything."""


def _signed(question: Question, parts: Iterable[Part]) -> list[Part]:
    """The parts in other rounds in which survivors were signed, as far as they overlap this one."""
    return [part for part in parts if part.signed and row(part).overlaps(row(Part(question)))]


def _remembering(colluders: int, honest: int, kept: Callable[[Part], list[Part]]) -> Rules:
    """The present rules of a silo whose ledger keeps of each earlier part what `kept` says."""

    def ledger(question: Question, parts: Iterable[Part]) -> list[Part]:
        return [kept_part for part in parts if part.question is not question for kept_part in kept(part)]

    return replace(
        present_rules(colluders, honest),
        may_take_part=lambda question, parts: check_release(row(Part(question)), rows(ledger(question, parts))),
        may_sign=lambda question, survivors, parts: check_survivors(
            row(Part(question)), names(survivors), rows(ledger(question, parts))
        ),
    )


def _content(question: Question) -> tuple[int, int | None, bytes]:
    """What a question asks, in whatever plan, with however much noise."""
    return question.samples, question.block, question.text


def _counting(colluders: int, honest: int, counts: Callable[[Question, Part], bool]) -> Rules:
    """The rules of a silo with a budget that, when it is asked, counts only some earlier rounds as spent."""
    present = rules_with_a_budget(colluders, honest)

    def may_spend(question: Question, parts: Sequence[Part]) -> None:
        present.may_spend(question, [part for part in parts if counts(question, part)])

    return replace(present, may_spend=may_spend)


def _spending(colluders: int, honest: int, events: Callable[[Question], Sequence[PrivacyEvent]]) -> Rules:
    """The rules of a silo with a budget that takes questions for what `events` makes of them."""
    present = rules_with_a_budget(colluders, honest)

    def may_spend(question: Question, parts: Sequence[Part]) -> None:
        asked = [question, *(part.question for part in parts)]
        if combined_multiplier(event for one in asked for event in events(one)) < present.least_multiplier:
            raise ReleaseRefused("beyond the budget")

    return replace(present, may_spend=may_spend)
