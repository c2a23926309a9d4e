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
from crypto.names import ReleaseKind
from crypto.privacy.accountant import least_multiplier
from crypto.privacy.events import PrivacyEvent
from crypto.releases.release_spec import events_of, spec_of
from silo_agent.consent.ledger import Release, check_release, check_survivors
from silo_agent.consent.policy import Approval, Policy, check_epsilon, check_policy
from silo_agent.consent.privacy_ledger import Spent
from support.small_plans import SMALL_PLANS

BUDGET, DELTA = 2.0, 1e-6
"""The epsilon and delta that a silo with a privacy budget has for each unit of its text."""


def present_rules(colluders: int, honest: int, epsilon: float | None = None) -> Rules:
    """The product's rules, with its default policy but for the colluders, honest survivors and epsilon that a silo asks
    for.
    """
    asked = {"colluders": colluders, "least_honest_survivors": honest, "least_survivors": honest}
    kinds = frozenset({ReleaseKind.VOTES, ReleaseKind.SAMPLING, ReleaseKind.ENERGIES})
    policy = Policy(Approval.AUTO, None, **SMALL_PLANS, **asked, release_kinds=kinds, epsilon=epsilon, delta=DELTA)

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
        may_spend=lambda question, parts: check_epsilon(policy, spent(parts), wanted(question)),
        may_sign=lambda question, survivors, parts: check_survivors(row(Part(question)), names(survivors), rows(parts)),
        answers=lambda number: encode_signed(np.array([number]), 0, 16),
        threshold=lambda question: question.round.threshold,
        enough=lambda question: enough(question.plan, question.silos.bit_count()) or 0,
        least_multiplier=least_multiplier(epsilon, DELTA) if epsilon else 0,
    )


def rules_with_a_budget(colluders: int, honest: int) -> Rules:
    """The product's rules where every silo has a privacy budget."""
    return present_rules(colluders, honest, BUDGET)


def spent(parts: Iterable[Part]) -> list[Spent]:
    """The privacy ledger of a silo that took part in these rounds."""
    return [charge(part.question) for part in parts]


@lru_cache(maxsize=4096)
def charge(question: Question) -> Spent:
    """What the privacy ledger has of a round about the question."""
    plan, index = question.plan, question.round.index
    spec = spec_of(plan, index)
    return Spent(question.round.digest, question.text, "", spec.kind, spec.events(plan, index))


@lru_cache(maxsize=4096)
def wanted(question: Question) -> tuple[PrivacyEvent, ...]:
    """What the question's round and all later ones of its plan tell of a unit."""
    return tuple(events_of(question.plan, question.round.index))


def rows(parts: Iterable[Part]) -> list[Release]:
    """The ledger of a silo that took part in these rounds and sent its words in each."""
    return [row(part) for part in parts]


def row(part: Part) -> Release:
    """What the ledger has of one round in which words left."""
    return _row(part.question, part.signed if part.confirmed else 0, part.never_opens)


@lru_cache(maxsize=4096)
def _row(question: Question, confirmed: int, withdrawn: bool) -> Release:
    entered = Release.of(question.round, question.text)
    return replace(entered, sent=True, confirmed=names(confirmed), withdrawn=withdrawn)
