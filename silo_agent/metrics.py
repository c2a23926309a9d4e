"""What Prometheus sees of a round. Names and labels are a contract (docs/operations.md); no label holds a silo's
data.
"""

from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Enum, Histogram

from crypto.names import Phase


class RoundMetrics:
    """Phase, bytes and seconds of the rounds that one process takes part in; `role` begins every name."""

    def __init__(self, registry: CollectorRegistry, role: str) -> None:
        prefix = f"sparsilo_{role}"
        self._entered = Phase.DONE, 0.0
        self.phase = Enum(f"{prefix}_phase", "Phase of the present round.", states=list(Phase), registry=registry)
        self.phase_seconds = Histogram(
            f"{prefix}_phase_seconds",
            "Wall time of a phase.",
            ["phase"],
            registry=registry,
            buckets=(0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600),
        )
        self.rounds = Counter(f"{prefix}_rounds", "Rounds ended.", ["release", "outcome"], registry=registry)
        self.sent_bytes = Counter(f"{prefix}_sent_bytes", "Message bytes sent.", registry=registry)
        self.received_bytes = Counter(f"{prefix}_received_bytes", "Message bytes received.", registry=registry)

    def enter(self, phase: Phase) -> bool:
        """`phase` is the present one from now on, and the seconds of the one before are observed; False if it was."""
        before, since = self._entered
        if phase is before:
            return False
        if before not in (Phase.DONE, Phase.ABORTED):
            self.phase_seconds.labels(before).observe(monotonic() - since)
        self.phase.state(phase)
        self._entered = phase, monotonic()
        return True
