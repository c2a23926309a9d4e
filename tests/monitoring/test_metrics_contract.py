"""Names, types, labels and their values as docs/operations.md promises them; no label for a silo's name."""

from importlib.metadata import version

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aggregator.metrics import AggregatorMetrics
from crypto.names import Phase, ReleaseKind
from monitoring.documented_metrics import Metric, documented, documented_values, exposed, exposed_values
from silo_agent.host.metrics import SiloMetrics

ROLES = {"aggregator": AggregatorMetrics, "silo": SiloMetrics}


def exposition(role: str) -> str:
    registry = CollectorRegistry()
    ROLES[role](registry)
    return generate_latest(registry).decode()


@pytest.mark.parametrize("role", ROLES)
def test_what_is_exposed_is_what_is_documented(role: str) -> None:
    assert exposed(exposition(role)) == documented(role)


def test_values_of_labels_from_the_start() -> None:
    """Each series is there at once: Prometheus sees no increase in one that begins at 1."""
    both = [exposed_values(exposition(role)) for role in ROLES]
    found = {label: {value for each in both for value in each.get(label, ())} for label in {**both[0], **both[1]}}
    assert found == documented_values() | {"version": {version("sparsilo")}}
    assert found["release"] == set(ReleaseKind)
    assert found["sparsilo_silo_phase"] == set(Phase)


def test_what_a_silo_spends_is_on_its_own_endpoint_only() -> None:
    assert documented("silo")["sparsilo_silo_budget_spent_ratio"] == Metric("gauge", frozenset({"budget"}))
    aggregator = documented("aggregator")
    assert not [name for name in aggregator if "budget" in name or "spent" in name or "epsilon" in name]
    assert {label for metric in aggregator.values() for label in metric.labels} == {
        *("phase", "release", "outcome", "reason", "version", "sparsilo_aggregator_phase"),
    }, "a label for silos is a silo's name"


def test_the_time_of_the_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that was done, and before the first one 0; a process that waits is in no phase."""
    registry = CollectorRegistry()
    metrics = SiloMetrics(registry)

    def last() -> float | None:
        return registry.get_sample_value("sparsilo_silo_last_round_timestamp_seconds")

    assert registry.get_sample_value("sparsilo_silo_phase", {"sparsilo_silo_phase": "done"}) == 1
    monkeypatch.setattr("prometheus_client.metrics.time.time", lambda: 1_800_000_000.0)
    for phase in (Phase.PLAN, Phase.UPLOAD, Phase.ABORTED, Phase.PLAN):
        metrics.enter(phase)
        assert last() == 0
    metrics.enter(Phase.DONE)
    assert last() == 1_800_000_000
