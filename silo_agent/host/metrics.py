"""What Prometheus sees of a process. Names and labels are a contract (docs/operations.md); no label holds a silo's
name or data.

A counter is there from the start, at 0, with every value that its label can have: Prometheus sees no increase in a
series that begins at 1.
"""

from collections.abc import Iterable
from importlib.metadata import version
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info

from crypto.names import Phase, ReleaseKind

PHASES = [phase for phase in Phase if phase not in (Phase.DONE, Phase.ABORTED)]


class RoundMetrics:
    """The metrics that both roles have: phase, bytes and seconds of the rounds that the process takes part in, and when
    its certificate ends. `role` begins every name.
    """

    def __init__(self, registry: CollectorRegistry, role: str) -> None:
        prefix = f"sparsilo_{role}"
        self._entered = Phase.DONE, 0.0
        self.phase = Enum(f"{prefix}_phase", "Phase of the present round.", states=list(Phase), registry=registry)
        self.phase.state(Phase.DONE)
        self.phase_seconds = Histogram(
            f"{prefix}_phase_seconds",
            "Wall time of a phase.",
            ["phase"],
            registry=registry,
            buckets=(0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600),
        )
        self.rounds = Counter(f"{prefix}_rounds", "Rounds ended.", ["release", "outcome"], registry=registry)
        for phase in PHASES:
            self.phase_seconds.labels(phase)
        for release in ReleaseKind:
            from_zero(self.rounds, *((release, outcome) for outcome in ("done", "failed")))
        self.sent_bytes = Counter(f"{prefix}_sent_bytes", "Message bytes sent.", registry=registry)
        self.received_bytes = Counter(f"{prefix}_received_bytes", "Message bytes received.", registry=registry)
        self.last_round = Gauge(
            f"{prefix}_last_round_timestamp_seconds", "When the last round was done; 0 before.", registry=registry
        )
        self.certificate_expiry = Gauge(
            f"{prefix}_certificate_expiry_timestamp_seconds", "When the own certificate ends.", registry=registry
        )
        Info(f"{prefix}_build", "What runs here.", registry=registry).info({"version": version("sparsilo")})

    def enter(self, phase: Phase) -> bool:
        """Enter a phase, and observe the seconds of the one before. Return whether it is another one."""
        before, since = self._entered
        if phase is before:
            return False
        if before in PHASES:
            self.phase_seconds.labels(before).observe(monotonic() - since)
        self.phase.state(phase)
        self._entered = phase, monotonic()
        if phase is Phase.DONE:
            self.last_round.set_to_current_time()
        return True


class SiloMetrics(RoundMetrics):
    """The metrics of a silo, on its own endpoint only: what it spent of its budget is nobody else's business."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "silo")
        self.connected = Gauge("sparsilo_silo_connected", "1 while the aggregator answers.", registry=registry)
        self.roster_pinned = Gauge("sparsilo_silo_roster_pinned", "1 once a roster is pinned.", registry=registry)
        self.pending_plans = Gauge("sparsilo_silo_pending_plans", "Plans that wait for approval.", registry=registry)
        self.decisions = Counter("sparsilo_silo_decisions", "Plans decided on.", ["decision"], registry=registry)
        from_zero(self.decisions, ("approved",), ("rejected",), ("refused",))
        self.blocks = Gauge("sparsilo_silo_blocks", "Blocks of the present plan's model.", registry=registry)
        self.blocks_done = Gauge("sparsilo_silo_blocks_done", "Blocks pruned for the present plan.", registry=registry)
        self.accusations = Gauge(
            "sparsilo_silo_accusations", "Rounds of which the aggregator stands accused.", registry=registry
        )
        self.budget_spent = Gauge(
            "sparsilo_silo_budget_spent_ratio", "Spent part of the policy's budget.", ["budget"], registry=registry
        )
        for budget in ("releases", "epsilon"):
            self.budget_spent.labels(budget)


def from_zero(counter: Counter, *labels: Iterable[str]) -> None:
    """Make the counter's series with these label values, at 0."""
    for values in labels:
        counter.labels(*values)


def unseen() -> SiloMetrics:
    """Return metrics for a command that ends before anybody could ask for them."""
    return SiloMetrics(CollectorRegistry())
