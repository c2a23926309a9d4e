"""Whether this silo takes part in a round: policy, ledgers, budget, and where one has to, a person's decision."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from crypto.errors import InputError, ReleaseRefused, SparsiloError
from crypto.plan import Plan
from crypto.releases.release_spec import events_of, spec_of
from crypto.secagg.round import Round
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.config import AgentConfig
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.audit_log import AuditLog
from silo_agent.consent.expected_traffic import candidate_files
from silo_agent.consent.ledger import Release
from silo_agent.consent.policy import (
    Approval,
    Policy,
    check_accusations,
    check_budget,
    check_candidates,
    check_epsilon,
    check_policy,
)
from silo_agent.consent.privacy_ledger import PrivacyLedger, Spent, epsilon_of
from silo_agent.consent.state_store import Decision, StateStore
from silo_agent.host.metrics import SiloMetrics
from silo_agent.model.calibration import WatchedText
from silo_agent.rounds.offer_checks import check_plan

_log = logging.getLogger(__name__)

STILL_OFFERED: Final = timedelta(minutes=10)
"""A plan that was not offered for so long waits for nobody any more."""


class Agreement:
    """What this silo agrees to. Every decision and refusal is in the audit log before it takes effect."""

    def __init__(
        self, config: AgentConfig, weights: DenseWeights, store: StateStore, audit: AuditLog, metrics: SiloMetrics
    ) -> None:
        self._config, self._weights, self._store = config, weights, store
        self._accusations, self._audit, self._metrics = Accusations(config.state), audit, metrics
        self._privacy = PrivacyLedger(config.state)
        self._text = WatchedText(config.calibration)
        self._counted = b""  # the last plan whose decision is in the metrics
        self._waiting = ""  # what is waited for, as the log has it

    def release(self, round_: Round, roster: Mapping[str, bytes]) -> Release | None:
        """Return what is to be released in a round that this silo takes part in.

        None as long as nobody decided, or outside the policy's hours. Raises PlanError, IdentityError or ReleaseRefused
        saying what this silo does not accept.
        """
        plan, now = round_.plan, datetime.now(UTC)
        policy = Policy.read(self._config.policy)
        self._check(round_, policy, roster)
        if self._store.offer(plan.digest, plan.encoded, now):
            self._note("plan_offered", "aggregator", plan=plan.digest.hex(), rounds=len(plan.message.rounds))
        decision, name = self._decision(plan, policy, now), plan.digest.hex()[:16]
        if decision is None:
            self._say_once(f"plan {name}: waits for a decision: silo-agent pending")
            return None
        if decision is Decision.APPROVED and policy.hours and not policy.hours.contains(now):
            self._say_once(f"plan {name}: waits for the policy's hours")
            return None
        if plan.digest != self._counted:
            self._counted = plan.digest
            self._metrics.decisions.labels(decision).inc()
            _log.info("plan %s: %s", name, decision)
        if decision is Decision.REJECTED:
            raise ReleaseRefused(f"plan {name} was rejected here")
        self._store.count_candidates(self._data, spec_of(plan, round_.index).files(plan, round_.index))
        return Release.of(round_, self._data)

    def charge(self, round_: Round, data: bytes) -> None:
        """Enter what a round tells of a unit into the privacy ledger, before anything is computed for it (14.7.2).

        `data` is the SHA-256 of the calibration file. Raises ReleaseRefused where the budget has no room for it.
        """
        policy, wanted = Policy.read(self._config.policy), events_of(round_.plan, round_.index)
        spends = _spends(round_, data, policy.epoch)
        self._privacy.charge(spends, lambda earlier: check_epsilon(policy, earlier, wanted), datetime.now(UTC))

    def observe(self) -> None:
        """Show in the metrics which plans wait, of how many rounds the aggregator is accused, and what is spent."""
        self._metrics.pending_plans.set(self._store.undecided(datetime.now(UTC) - STILL_OFFERED))
        self._metrics.accusations.set(len(self._accusations.standing()))
        with suppress(InputError):  # a policy or text that cannot be read refuses the next plan, and says so then
            policy = Policy.read(self._config.policy)
            self._metrics.budget_spent.labels("releases").set(self._charged() / policy.releases)
            spent = [release for release in self._privacy.spent() if release.epoch == policy.epoch]
            part = epsilon_of(spent, policy.shown_delta) / policy.epsilon if policy.epsilon else 0
            self._metrics.budget_spent.labels("epsilon").set(part)

    def _check(self, round_: Round, policy: Policy, roster: Mapping[str, bytes]) -> None:
        plan = round_.plan
        try:
            check_accusations(policy, len(self._accusations.standing()))
            check_policy(plan, policy, self._config.silo)
            check_plan(plan, self._config, roster, self._weights, self._digests)
            check_candidates(policy, len(self._store.candidates(self._data) | candidate_files(plan)))
            check_budget(policy, self._charged(but=round_.digest), len(plan.message.rounds) - round_.index)
            spends = _spends(round_, self._data, policy.epoch)
            spent = [release for release in self._privacy.spent() if release != spends]
            check_epsilon(policy, spent, events_of(plan, round_.index))
        except SparsiloError as error:
            self._note("refused", "policy", plan=plan.digest.hex(), round=round_.index, reason=str(error))
            self._metrics.decisions.labels("refused").inc()
            raise

    def _say_once(self, what: str) -> None:
        """Log what is waited for, once: the same round is offered again every second."""
        if what != self._waiting:
            self._waiting = what
            _log.info("%s", what)

    def _decision(self, plan: Plan, policy: Policy, now: datetime) -> Decision | None:
        decision = self._store.decision(plan.digest)
        if decision is None and policy.approval is Approval.AUTO:
            decision = Decision.APPROVED
            self._note(decision, "policy", plan=plan.digest.hex())
            self._store.decide(plan.digest, decision, "policy", now)
        return decision

    def _charged(self, but: bytes = b"") -> int:
        """Count the rounds, but one, in which the present text was to be released (14.4.1)."""
        releases = self._store.releases()
        return sum(release.data == self._data and release.round != but for release in releases)

    @cached_property
    def _digests(self) -> dict[str, bytes]:
        return self._weights.digest()

    @property
    def _data(self) -> bytes:
        return self._text.digest

    def _note(self, event: str, by: str, **fields: object) -> None:
        self._audit.append(event, by, datetime.now(UTC), **fields)


def _spends(round_: Round, data: bytes, epoch: str) -> Spent:
    """Return what a round tells of a unit of a text, as the privacy ledger has it."""
    spec = spec_of(round_.plan, round_.index)
    return Spent(round_.digest, data, epoch, spec.kind, spec.events(round_.plan, round_.index))
