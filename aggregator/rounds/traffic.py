"""Message bytes: by silo, as the report names them, and in total, as Prometheus does."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from aggregator.metrics import AggregatorMetrics


@dataclass
class Traffic:
    """Message bytes of one silo, seen from the silo: `up` left it, `down` reached it."""

    up: int = 0
    down: int = 0


class CountedTraffic:
    """The traffic of every silo since the process began."""

    def __init__(self, metrics: AggregatorMetrics) -> None:
        self._by_silo: dict[str, Traffic] = defaultdict(Traffic)
        self._metrics = metrics

    def count(self, silo: str, *, up: int = 0, down: int = 0) -> None:
        """Add bytes that a silo sent up to here, or that were sent down to it."""
        self._by_silo[silo].up += up
        self._by_silo[silo].down += down
        self._metrics.received_bytes.inc(up)
        self._metrics.sent_bytes.inc(down)

    def so_far(self, silos: Iterable[str]) -> dict[str, Traffic]:
        """Return a copy of these silos' traffic."""
        return {silo: replace(self._by_silo[silo]) for silo in silos}
