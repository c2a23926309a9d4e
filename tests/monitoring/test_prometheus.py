"""The charts' dashboards and alerts in a real Prometheus, which scrapes a real round."""

import asyncio
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from crypto.names import Phase
from monitoring.prometheus_server import DASHBOARDS, Prometheus, prometheus
from silo_agent.host.health import serve_health
from silo_agent.host.metrics import SiloMetrics
from support.driven import Driven, plan

DAY = 86400


@pytest.mark.parts
def test_a_round_in_which_a_silo_is_dropped(tmp_path: Path) -> None:
    """One silo's metrics are led by hand beside its session; a budget passes 80 %."""
    registry = CollectorRegistry()
    metrics = SiloMetrics(registry)

    async def go_through(driven: Driven) -> None:
        silo, lost = driven.round.silos[:2]
        running = asyncio.create_task(driven.run({lost: Phase.UPLOAD}))
        while not running.done():
            metrics.enter(driven.silos[silo].phase)
            await asyncio.sleep(0.01)
        metrics.enter(driven.silos[silo].phase)

    async def scraped() -> None:
        driven = Driven(plan(4, seconds=1), tmp_path / "rounds")
        driven.driver.metrics.certificate_expiry.set(time.time() + 30 * DAY)
        metrics.certificate_expiry.set(time.time() + 6 * DAY)
        metrics.budget_spent.labels("releases").set(0.79)
        endpoints = {
            job: [f"127.0.0.1:{serve_health(each, lambda: True, '127.0.0.1', 0)}"]
            for job, each in (("aggregator", driven.registry), ("silo", registry))
        }
        with prometheus(tmp_path / "prometheus", endpoints) as server:
            assert server.fires("SparsiloSiloCertificateExpiring", job="silo")
            assert alerts(server) == {"SparsiloSiloCertificateExpiring"}
            await go_through(driven)
            metrics.budget_spent.labels("releases").set(0.8)
            assert server.fires("SparsiloSiloDropped", job="aggregator", phase="upload")
            assert server.fires("SparsiloBudgetNearlySpent", job="silo", budget="releases")
            assert alerts(server) == {
                *("SparsiloSiloCertificateExpiring", "SparsiloSiloDropped", "SparsiloBudgetNearlySpent"),
            }
            assert [server.without_data(dashboard) for dashboard in DASHBOARDS] == [[], []]
            assert server.query("sparsilo_aggregator_survivors")[0][1] == 3
            [(_, dropped)] = server.query("round(sum(increase(sparsilo_aggregator_dropped_total[1m])))")
            assert dropped == 1

    asyncio.run(scraped())


def alerts(server: Prometheus) -> set[str]:
    return {labels["alertname"] for labels in server.firing()}
