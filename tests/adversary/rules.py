"""The rules that honest silos follow in the search: the product's own."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np

from adversary.federation import Part, Rules
from adversary.questions import Question, names
from crypto.backends.withdrawal import enough
from crypto.encoding.fixed_point import encode_signed
from crypto.errors import SparsiloError
from silo_agent.consent.ledger import Release, check_release, check_survivors
from silo_agent.consent.policy import Approval, Policy, check_policy
from support.small_plans import SMALL_PLANS


def present_rules(colluders: int, honest: int) -> Rules:
    """The product's rules, with its default policy but for how many colluders and honest survivors a silo asks for."""
    asked = {"colluders": colluders, "least_honest_survivors": honest, "least_survivors": honest}
    policy = Policy(Approval.AUTO, None, **SMALL_PLANS, **asked)

    @cache
    def refusal(question: Question) -> SparsiloError | None:
        try:
            check_policy(question.plan, policy, question.plan.silos[0])  # the bounds for others are those for itself
        except SparsiloError as error:
            return error
        return None

    def covers(question: Question) -> None:
        if error := refusal(question):
            raise error

    return Rules(
        covers=covers,
        may_take_part=lambda question, parts: check_release(row(Part(question)), rows(parts)),
        may_sign=lambda question, survivors, parts: check_survivors(row(Part(question)), names(survivors), rows(parts)),
        answers=lambda number: encode_signed(np.array([number]), 0, 16),
        threshold=lambda question: question.round.threshold,
        enough=lambda question: enough(question.plan, question.silos.bit_count()) or 0,
    )


def rows(parts: Iterable[Part]) -> list[Release]:
    """The ledger of a silo that took part in these rounds and sent its words in each."""
    return [row(part) for part in parts]


def row(part: Part) -> Release:
    """What the ledger has of one round in which words left."""
    return _row(part.question, part.signed if part.confirmed else 0, part.never_opens)


@lru_cache(maxsize=4096)
def _row(question: Question, confirmed: int, withdrawn: bool) -> Release:
    entered = Release.of(question.round, b"text")
    return replace(entered, sent=True, confirmed=names(confirmed), withdrawn=withdrawn)
