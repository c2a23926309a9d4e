"""The aggregator's metrics: those of every role, who is there, and who was left."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from crypto.names import Phase, ReleaseKind
from silo_agent.host.metrics import PHASES, RoundMetrics, from_zero


class AggregatorMetrics(RoundMetrics):
    """The metrics of an aggregator: they count silos, and never hold their names or data."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "sparsilo_aggregator"
        super().__init__(registry, "aggregator")
        self.silos = Gauge(f"{prefix}_silos", "Silos in the present plan's roster.", registry=registry)
        self.survivors = Gauge(f"{prefix}_survivors", "Survivors of the last round.", registry=registry)
        self.enrolled_silos = Gauge(f"{prefix}_enrolled_silos", "Silos enrolled and not revoked.", registry=registry)
        self.connected_silos = Gauge(
            f"{prefix}_connected_silos", "Silos that called within the last 90 seconds.", registry=registry
        )
        self.awaited = Gauge(
            f"{prefix}_awaited_silos", "Silos that the present phase waits for.", ["phase"], registry=registry
        )
        self.late = Gauge(
            f"{prefix}_late_silos", "Those of them that have used up half of its time.", ["phase"], registry=registry
        )
        for phase in PHASES:
            self.awaits(phase, 0, 0)
        self.dropped = Counter(f"{prefix}_dropped", "Silos dropped.", ["phase"], registry=registry)
        self.declined = Counter(f"{prefix}_declined", "Silos that declined a round.", ["release"], registry=registry)
        self.refused_calls = Counter(f"{prefix}_refused_calls", "Calls refused.", ["reason"], registry=registry)
        self.runs = Counter(f"{prefix}_runs", "Runs ended.", ["outcome"], registry=registry)
        from_zero(self.dropped, *((phase,) for phase in PHASES))
        from_zero(self.declined, *((release,) for release in ReleaseKind))
        from_zero(self.refused_calls, ("expired",), ("revoked",), ("unknown",), ("too_old",), ("other_key",))
        from_zero(self.runs, ("done",), ("failed",), ("cancelled",))

    def awaits(self, phase: Phase, awaited: int, late: int) -> None:
        """Show how many silos a phase waits for, and how many of them are late."""
        self.awaited.labels(phase).set(awaited)
        self.late.labels(phase).set(late)
