"""Bytes are counted by silo and in total."""

from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.traffic import CountedTraffic, Traffic


def test_bytes_are_counted_by_silo_and_in_total() -> None:
    registry = CollectorRegistry()
    traffic = CountedTraffic(AggregatorMetrics(registry))
    traffic.count("a", up=5)
    traffic.count("a", up=2, down=1)
    traffic.count("b", down=40)
    before = traffic.so_far(("a", "b", "silent"))
    traffic.count("a", up=1)
    assert before == {"a": Traffic(7, 1), "b": Traffic(0, 40), "silent": Traffic(0, 0)}
    assert traffic.so_far(("a",)) == {"a": Traffic(8, 1)}
    assert registry.get_sample_value("sparsilo_aggregator_received_bytes_total") == 8
    assert registry.get_sample_value("sparsilo_aggregator_sent_bytes_total") == 41
