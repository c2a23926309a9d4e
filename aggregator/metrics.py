"""The aggregator's metrics: those of every role, and who was left."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from silo_agent.metrics import RoundMetrics


class AggregatorMetrics(RoundMetrics):
    """Counts of silos; never their names or data."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "aggregator")
        self.silos = Gauge("sparsilo_aggregator_silos", "Silos in the present plan's roster.", registry=registry)
        self.survivors = Gauge("sparsilo_aggregator_survivors", "Survivors of the last round.", registry=registry)
        self.dropped = Counter("sparsilo_aggregator_dropped", "Silos dropped.", ["phase"], registry=registry)
