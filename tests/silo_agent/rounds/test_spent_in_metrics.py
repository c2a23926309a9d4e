"""How much of its budgets a silo's metrics say that it spent."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from crypto.privacy import accountant
from crypto.privacy.accountant import epsilon
from crypto.privacy.events import ExactEvent, GaussianEvent, PrivacyEvent
from silo_agent.config import AgentConfig
from silo_agent.consent import privacy_ledger
from silo_agent.consent.audit_log import AuditLog
from silo_agent.consent.privacy_ledger import PRIVACY_FILE, PrivacyLedger, Spent
from silo_agent.consent.state_store import STATE_FILE, StateStore
from silo_agent.host.metrics import SiloMetrics
from silo_agent.rounds.agreement import Agreement


class Observed:
    """An agreement whose metrics are looked at, and what it spent."""

    def __init__(self, folder: Path) -> None:
        none, self._folder, self._registry = folder / "none", folder, CollectorRegistry()
        text, policy = folder / "text.txt", folder / "policy.yaml"
        text.write_text("A patient came in.")
        state = folder / "state"
        config = AgentConfig("a", "localhost:1", none, text, state, none, none, none, none, none, policy)
        self.ledger = PrivacyLedger(state)
        weights: Any = None  # no plan is looked at
        store, metrics = StateStore(state / STATE_FILE), SiloMetrics(self._registry)
        self._agreement = Agreement(config, weights, store, AuditLog(state), metrics)

    def policy(self, budget: str) -> None:
        (self._folder / "policy.yaml").write_text(f"models: any\napproval: auto\nbudget: {budget}\n")

    def spend(self, *events: PrivacyEvent, epoch: str = "") -> None:
        number = len(self.ledger.spent())
        spent = Spent(bytes([number] * 32), b"d" * 32, epoch, "energies", events)
        self.ledger.charge(spent, lambda earlier: None, datetime.now(UTC))

    def part(self) -> float | None:
        self._agreement.observe()
        return self._registry.get_sample_value("sparsilo_silo_budget_spent_ratio", {"budget": "epsilon"})


@pytest.fixture
def observed(tmp_path: Path) -> Observed:
    return Observed(tmp_path)


def test_the_part_of_epsilon_that_the_epoch_spent(observed: Observed) -> None:
    observed.policy("{epsilon: 5, delta: 0.001, epoch: '2026'}")
    assert observed.part() == 0
    observed.spend(GaussianEvent(4.0), epoch="2026")
    observed.spend(GaussianEvent(4.0), epoch="2026")
    observed.spend(ExactEvent(), epoch="2025")
    assert observed.part() == epsilon([GaussianEvent(4.0, 2)], 0.001) / 5
    observed.policy("{epsilon: 5, delta: 0.001, epoch: '2025'}")
    assert observed.part() == float("inf")
    observed.policy("{epsilon: unlimited, epoch: '2025'}")
    assert observed.part() == 0


def test_it_is_computed_again_only_when_something_was_spent(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accountant takes seconds to load, and an agent looks every second."""
    computed = []
    monkeypatch.setattr(privacy_ledger, "epsilon", lambda *asked: computed.append(asked) or accountant.epsilon(*asked))
    observed.policy("{epsilon: 5, delta: 0.002}")
    for expected in (1, 2):
        observed.spend(GaussianEvent(3.0))
        for _ in range(3):
            observed.part()
        assert len(computed) == expected


def test_a_ledger_that_cannot_be_read_stops_no_agent(observed: Observed, tmp_path: Path) -> None:
    observed.policy("{epsilon: 5, delta: 0.001}")
    observed.spend(GaussianEvent(4.0))
    before = observed.part()
    (tmp_path / "state" / PRIVACY_FILE).unlink()
    assert observed.part() == before
