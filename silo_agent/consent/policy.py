"""What this silo agrees to: its policy.yaml, and how a plan is held against it before anything is computed or sent.

Every function named `check_...` returns nothing where all is well, and raises an error that says what is not.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from crypto.errors import ConfigError, PlanError, ReleaseRefused
from crypto.names import ReleaseKind
from crypto.plan import Plan, model_digest
from crypto.privacy.accountant import USUAL_DELTA
from crypto.privacy.events import ExactEvent, PrivacyEvent
from crypto.releases.release_spec import events_of, spec_of
from silo_agent.consent.bounds import BOUNDS, Number, is_most, spelled
from silo_agent.consent.privacy_ledger import Spent, epsilon_of, without_noise
from silo_agent.settings.plain_yaml import read_mapping

if TYPE_CHECKING:  # a command that shows a plan need not wait for torch
    from silo_agent.checkpoint.dense_weights import DenseWeights

ANY: Final = "any"
UNLIMITED: Final = "unlimited"
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_COUNT: Final = (1 << 31) - 1
"""The largest budget of releases, and number of accusations or of keep masks."""

BUDGET: Final = ("releases", "epsilon", "delta", "epoch")
"""The fields of the policy that are under `budget`."""
ROUNDING: Final = 1 + 1e-9
"""How many times the budget an epsilon may seem to be: the accountant finds it by trying."""

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_EPOCH: Final = re.compile("[a-z0-9-]{0,63}")
_TIME: Final = re.compile("([01][0-9]|2[0-3]):[0-5][0-9]")


class Approval(StrEnum):
    """Who decides on a plan that the policy covers."""

    MANUAL = "manual"
    AUTO = "auto"


@dataclass(frozen=True)
class Hours:
    """The daily window in which this silo takes part in rounds. One that ends before it begins ends on the next day."""

    days: tuple[str, ...]
    """The days on which the window begins, of DAYS."""
    begin: time
    """The first moment within the window."""
    end: time
    """The first moment after it."""
    timezone: ZoneInfo
    """Where days and times are meant."""

    def contains(self, now: datetime) -> bool:
        """Return whether `now`, which has a time zone, is within the window."""
        local = now.astimezone(self.timezone)
        today, yesterday = DAYS[local.weekday()] in self.days, DAYS[local.weekday() - 1] in self.days
        if self.begin < self.end:
            return today and self.begin <= local.time() < self.end
        return (today and local.time() >= self.begin) or (yesterday and local.time() < self.end)

    def opens(self, now: datetime) -> datetime:
        """Return `now` where it is within the window; otherwise the minute in which the window next opens."""
        moment = now
        while not self.contains(moment):
            moment = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        return moment


@dataclass(frozen=True)
class Policy:
    """What an institution decided (docs/formats.md, section 12). A plan that it does not cover is refused."""

    approval: Approval
    """Who decides on a plan that everything below covers."""
    models: frozenset[str] | None
    """Digests (hex) of the models that may be pruned; None means any model that this silo holds."""
    release_kinds: frozenset[ReleaseKind] = frozenset(  # names, so that a kind added later widens no policy
        {
            *(ReleaseKind.VOTES, ReleaseKind.WEIGHTS, ReleaseKind.SCALES),
            *(ReleaseKind.OUTLIERS, ReleaseKind.SAMPLING, ReleaseKind.EVALUATION),
        }
    )
    """What a round may sum."""
    least_survivors: int = 3
    """The fewest silos that a sum may be opened over."""
    least_cohort: int = 3
    """The fewest silos that a roster may have; with layer sampling also the fewest of a cohort."""
    least_honest_survivors: int = 3
    """The fewest survivors, beyond the plan's colluders, that a sum may hide this silo among, itself included."""
    colluders: int = 0
    """How many dishonest silos a plan must withstand at least, beside the aggregator."""
    least_sparsity_ratio: Decimal = Decimal("0.1")
    """The least share of weights that a plan may have this silo prune."""
    most_sparsity_ratio: Decimal = Decimal("0.9")
    """The largest such share."""
    least_sparsity_ratio_of_others: Decimal = Decimal("0.1")
    """The least share of weights that a plan may have any other silo prune: what one that keeps all contributes is
    known to whoever made the plan, and hides nobody.
    """
    most_sparsity_ratio_of_others: Decimal = Decimal("0.9")
    """The largest such share: what one that keeps nothing contributes is known too."""
    least_samples: int = 16
    """The fewest calibration sequences that a plan may use."""
    most_samples: int = 100_000
    """The most of them."""
    least_sequence_length: int = 32
    """The fewest tokens that a sequence may have."""
    most_sequence_length: int = 32_768
    """The most of them."""
    least_held_out_sequences: int = 16
    """The fewest sequences that an evaluation may be over."""
    most_held_out_sequences: int = 100_000
    """The most of them."""
    most_evaluations: int = 1
    """The most evaluation rounds that a plan may have."""
    most_rounds: int = 100
    """The most rounds that a plan may have."""
    accusations: int = 3
    """At how many standing accusations of the aggregator this silo takes part in nothing any more (14.6.2)."""
    releases: int = 100
    """In how many rounds the same text may leave in masked words."""
    candidates: int = 8
    """How many keep masks from outside may be run over the same text, in all."""
    epsilon: float | None = None
    """The budget of differential privacy: what all releases of an epoch may spend; None means unlimited."""
    delta: float | None = None
    """The probability with which the budget may be exceeded; None where none is set."""
    epoch: str = ""
    """Which people the text is of. A new name says that it is of other people, of whom nothing was released yet."""
    hours: Hours | None = None
    """When this silo takes part in rounds; None means always."""
    whole_noise: bool = False
    """Whether this silo adds all the noise that a plan's promise needs, and counts on no other silo's share."""

    @classmethod
    def read(cls, file: Path) -> "Policy":
        """Read policy.yaml. Raises ConfigError naming file and field."""
        given = dict(read_mapping(file))
        budget = _mapping(file, "budget", given.pop("budget", {}))
        known = {field.name for field in fields(cls)} - {*BUDGET}
        for name in given:
            _require(name in known, f"{file}: {name}: unknown field", f"known: {', '.join(sorted({*known, 'budget'}))}")
        for name in ("models", "approval"):
            _require(name in given, f"{file}: {name}: is missing")
        for name in budget:
            _require(name in BUDGET, f"{file}: budget: {name}: unknown field")
        values: dict[str, Any] = {
            "approval": _choice(file, "approval", given.pop("approval"), {str(choice): choice for choice in Approval}),
            "models": _models(file, given.pop("models")),
            "releases": _count(f"{file}: budget", "releases", budget.get("releases", cls.releases)),
            "candidates": _count(file, "candidates", given.pop("candidates", cls.candidates), least=0),
            "accusations": _count(file, "accusations", given.pop("accusations", cls.accusations)),
            "epsilon": _epsilon(file, budget.get("epsilon", UNLIMITED)),
            "delta": _delta(file, budget.get("delta")),
            "epoch": _epoch(file, budget.get("epoch", cls.epoch)),
        }
        if "release_kinds" in given:
            values["release_kinds"] = _kinds(file, given.pop("release_kinds"))
        if "whole_noise" in given:
            values["whole_noise"] = given.pop("whole_noise")
            _require(type(values["whole_noise"]) is bool, f"{file}: whole_noise: must be true or false")
        if "hours" in given:
            values["hours"] = _hours(file, given.pop("hours"))
        values |= {name: _bound(file, name, value) for name, value in given.items()}
        policy = cls(**values)
        has_both = policy.epsilon is None or policy.delta is not None
        _require(has_both, f"{file}: budget: delta: is missing, and epsilon needs it", "such as 0.000001")
        for name in filter(is_most, BOUNDS):
            least_name, most = name.replace("most_", "least_", 1), getattr(policy, name)
            least = getattr(policy, least_name, most)
            _require(least <= most, f"{file}: {name}: {most} is below {least_name}, which is {least}")
        return policy

    @property
    def shown_delta(self) -> float:
        """Return at which delta epsilon is said."""
        return self.delta or USUAL_DELTA


def _require(is_so: bool, problem: str, hint: str = "") -> None:
    if not is_so:
        raise ConfigError(problem, hint=hint)


def _mapping(file: Path, name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: {name}: must hold `field: value` lines")
    return value


def _bound(file: Path, name: str, value: object) -> Number:
    number = BOUNDS[name].read(value)
    if number is None:
        raise ConfigError(f"{file}: {name}: must be {BOUNDS[name].says}")
    return number


def _choice(file: Path, name: str, value: object, choices: Mapping[str, Any]) -> Any:
    _require(isinstance(value, str) and value in choices, f"{file}: {name}: {value!r} is none of {', '.join(choices)}")
    return choices[str(value)]


def _models(file: Path, value: object) -> frozenset[str] | None:
    if value == ANY:
        return None
    is_list = isinstance(value, list) and all(isinstance(item, str) and _DIGEST.fullmatch(item) for item in value)
    hint = "silo-agent preflight prints the digest of the model in the config; `any` trusts whatever lies there"
    _require(is_list and bool(value), f"{file}: models: must list model digests of 64 hex digits, in quotes", hint)
    return frozenset(value) if isinstance(value, list) else None


def _kinds(file: Path, value: object) -> frozenset[ReleaseKind]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{file}: release_kinds: must list release kinds")
    known = {str(kind): kind for kind in ReleaseKind}
    return frozenset(_choice(file, "release_kinds", name, known) for name in value)


def _count(where: Path | str, name: str, value: object, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= MOST_COUNT:  # a truth value is an int to Python
        raise ConfigError(f"{where}: {name}: must be a whole number, from {least} to {MOST_COUNT}")
    return value


def _epsilon(file: Path, value: object) -> float | None:
    if value == UNLIMITED:
        return None
    if type(value) not in (int, float) or not 0 < float(str(value)) < float("inf"):
        raise ConfigError(f"{file}: budget: epsilon: must be a number above 0, or {UNLIMITED}")
    return float(str(value))


def _delta(file: Path, value: object) -> float | None:
    if value is None:
        return None
    if type(value) is not float or not 0 < value < 1:
        raise ConfigError(f"{file}: budget: delta: must be a number between 0 and 1, such as 0.000001")
    return value


def _epoch(file: Path, value: object) -> str:
    is_name = isinstance(value, str) and bool(_EPOCH.fullmatch(value))
    hint = "in quotes where it is a number"
    _require(is_name, f"{file}: budget: epoch: must be a name of at most 63 letters a-z, digits and -", hint)
    return str(value)


def _hours(file: Path, value: object) -> Hours:
    given = _mapping(file, "hours", value)
    for name in given:
        _require(name in ("days", "from", "to", "timezone"), f"{file}: hours: {name}: unknown field")
    days = given.get("days", list(DAYS))
    are_days = isinstance(days, list) and bool(days) and all(day in DAYS for day in days)
    _require(are_days, f"{file}: hours: days: must list some of {', '.join(DAYS)}")
    times = []
    for name in ("from", "to"):
        text = given.get(name)
        is_time = isinstance(text, str) and bool(_TIME.fullmatch(text))
        _require(is_time, f"{file}: hours: {name}: must be a time such as '08:00', in quotes")
        times.append(time.fromisoformat(str(text)))
    _require(times[0] != times[1], f"{file}: hours: to: is the same time as from", "leave out hours to mean always")
    try:
        timezone = ZoneInfo(str(given.get("timezone", "UTC")))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = given.get("timezone")
        raise ConfigError(f"{file}: hours: timezone: {zone!r} is unknown", hint="such as Europe/Berlin") from None
    return Hours(tuple(days) if isinstance(days, list) else DAYS, times[0], times[1], timezone)


def trusted_digest(weights: "DenseWeights") -> bytes:
    """Return the model digest of a model folder, which is read whole."""
    return model_digest(weights.digest(), weights.file_digests)


def check_policy(plan: Plan, policy: Policy, silo: str) -> None:
    """Check that the policy of `silo` covers the plan, on which no text has a say (2.3.4, 2.3.7, 14.1.1).

    Raises PlanError naming the field of the plan, its value, and the policy's field that does not cover it.
    """
    digest = plan.model_digest.hex()
    if policy.models is not None and digest not in policy.models:
        raise PlanError(f"the plan's model {digest} is not one that this silo trusts", hint="models in the policy")
    for index in range(len(plan.message.rounds)):
        if plan.release_kind(index) not in policy.release_kinds:
            raise PlanError(
                f"the plan has a round of {plan.release_kind(index)}, which this silo does not release",
                hint="release_kinds in the policy",
            )
    for name, bound in BOUNDS.items():
        limit: Number = getattr(policy, name)
        for what, asked in bound.asked(plan, silo).items():
            if asked > limit if is_most(name) else asked < limit:
                verb = "allows" if is_most(name) else "asks for"
                raise PlanError(
                    f"plan: {what}: {spelled(asked)} where this silo {verb} {spelled(limit)}",
                    hint=f"{name} in the policy",
                )
    _check_own_epsilon(plan, policy)


def _check_own_epsilon(plan: Plan, policy: Policy) -> None:
    """Check that the rounds of `plan` alone spend no more than the policy's epsilon (14.7.3)."""
    if policy.epsilon is None:
        return
    events, rounds = events_of(plan), range(len(plan.message.rounds))
    if ExactEvent() in events:
        exact = dict.fromkeys(
            plan.release_kind(index) for index in rounds if ExactEvent() in spec_of(plan, index).events(plan, index)
        )
        raise PlanError(
            f"the plan adds no noise, and this silo's privacy budget is epsilon {policy.epsilon:g}",
            hint=f"plan with --epsilon; without noise are its rounds of {', '.join(exact)}",
        )
    alone = epsilon_of((), policy.shown_delta, events)
    if alone > policy.epsilon * ROUNDING:
        raise PlanError(
            f"the plan spends epsilon {alone:.6g}, and this silo's privacy budget is epsilon {policy.epsilon:g} at "
            f"delta {policy.shown_delta:g}",
            hint="plan with a smaller --epsilon; epsilon in the policy is the limit",
        )


def check_accusations(policy: Policy, standing: int) -> None:
    """Raise ReleaseRefused where so many accusations of the aggregator stand that this silo works with it no more."""
    if standing >= policy.accusations:
        raise ReleaseRefused(
            f"{standing} rounds ended after this silo had signed what they opened, as a round with a forged sum would",
            hint="silo-agent ledger lists them, and --dismiss takes one back; accusations in the policy is the limit",
        )


def check_candidates(policy: Policy, keep_masks: int) -> None:
    """Check that so many keep masks from outside, earlier ones included, may be run over one text (14.3.3).

    Raises ReleaseRefused where they are too many.
    """
    if keep_masks > policy.candidates:
        raise ReleaseRefused(
            f"{keep_masks} keep masks from outside would have been run over this text, and {policy.candidates} may be",
            hint="calibrate on other text, or decide on more: candidates in the policy",
        )


def check_budget(policy: Policy, made: int, wanted: int) -> None:
    """Check that the budget has room for `wanted` rounds more, beside those `made` over the same text.

    Raises ReleaseRefused where it has not.
    """
    left = max(0, policy.releases - made)
    if wanted > left:
        raise ReleaseRefused(
            f"{wanted} rounds are to come, and this text has {left} of {policy.releases} left",
            hint="calibrate on other text, or decide on a larger budget: releases in the policy",
        )


def check_epsilon(policy: Policy, spent: Sequence[Spent], wanted: Sequence[PrivacyEvent]) -> None:
    """Check that the privacy budget has room for `wanted` beside what its epoch's releases spent on any text (14.7.4).

    Raises ReleaseRefused where it has not.
    """
    if policy.epsilon is None:
        return
    of_epoch = [release for release in spent if release.epoch == policy.epoch]
    total = epsilon_of(of_epoch, policy.shown_delta, wanted)
    if total > policy.epsilon * ROUNDING:
        exact = without_noise(of_epoch)
        so_far = (
            f"{exact} rounds were released without noise, so the epsilon spent is unlimited"
            if exact
            else f"epsilon {epsilon_of(of_epoch, policy.shown_delta):.6g} is spent"
        )
        would_be = "unlimited" if isinf(total) else f"{total:.6g}"
        raise ReleaseRefused(
            f"{so_far}; with the rounds to come it would be {would_be}, and this silo's privacy budget is epsilon "
            f"{policy.epsilon:g} at delta {policy.shown_delta:g}",
            hint="epoch in the policy may get a new name only where the text is of other people, of whom nothing was "
            "released",
        )
