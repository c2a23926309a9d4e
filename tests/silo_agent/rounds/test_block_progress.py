"""How far pruning is: the same numbers in metrics and log, and what remains from the second block on."""

import logging

import pytest
from prometheus_client import CollectorRegistry

from silo_agent.host.metrics import SiloMetrics
from silo_agent.rounds import block_progress
from silo_agent.rounds.block_progress import BlockProgress


def test_blocks_in_metrics_log_and_bars(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    registry, now = CollectorRegistry(), [100.0]
    monkeypatch.setattr(block_progress, "monotonic", lambda: now[0])
    bars: list[tuple[str, int, int]] = []
    progress = BlockProgress(SiloMetrics(registry), lambda *told: bars.append(told))
    progress("evaluating candidates", 1, 3)
    progress("writing calibration text", 40, 4096)
    for done in (1, 2, 4, 1):  # and then another plan's
        progress("pruning blocks", done, 32)
        now[0] += 61
        assert registry.get_sample_value("sparsilo_silo_blocks_done") == done
        assert registry.get_sample_value("sparsilo_silo_blocks") == 32
    assert [record.getMessage() for record in caplog.records] == [
        "writing calibration text: 40 of 4096 tokens",
        "block 1 of 32",
        "block 2 of 32, about 30:30 minutes left",
        "block 4 of 32, about 18:59 minutes left",
        "block 1 of 32",
    ]
    assert len(bars) == 6
