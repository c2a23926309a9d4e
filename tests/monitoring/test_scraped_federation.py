"""The charts' dashboards and alerts over real processes: `aggregator serve` and three `silo-agent run`, one of which
is killed.
"""

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

import pytest
import yaml

from aggregator.cli import cli as aggregator
from monitoring.documented_metrics import documented, documented_values, exposed, exposed_values
from monitoring.prometheus_server import DASHBOARDS, Prometheus, prometheus, until
from silo_agent.cli import cli as silo_agent
from support.commands import run
from support.models import tiny_llama, write_text
from support.small_plans import SMALL_PLANS

SILOS = ("ward-a", "ward-b", "ward-c")
SECONDS = 300
DAY = 86400


@dataclass
class Served:
    """A process and where it serves metrics."""

    process: Popen[bytes]
    log: Path

    def endpoint(self) -> str:
        found = until(lambda: re.findall(r"metrics on http://(\S+)/metrics", self.log.read_text()), SECONDS)
        assert found, self.log.read_text()
        return str(found[0])


@contextmanager
def served(module: str, verb: str, config: Path) -> Iterator[Served]:
    log = config.with_suffix(".log")
    command = [sys.executable, "-m", module, verb, "--config", config]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("wb") as out:
        process = Popen(command, stdin=DEVNULL, stdout=out, stderr=STDOUT, env=environment)
    try:
        yield Served(process, log)
    finally:
        process.terminate()
        process.wait(SECONDS)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parts
def test_a_silo_is_killed_and_budgets_are_spent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def done(command: object, *arguments: object) -> dict[str, str]:
        ran = run(command, [*arguments, "--output", "json"], capsys)  # type: ignore[arg-type]
        assert ran.code == 0, ran.err
        data: dict[str, str] = ran.data
        return data

    model = tiny_llama(tmp_path / "dense")
    address, config = f"127.0.0.1:{free_port()}", tmp_path / "aggregator.yaml"
    config.write_text(
        yaml.safe_dump({"address": address, "public_address": address, "model": "dense", "state": "aggregator"})
    )
    plan = tmp_path / "plan.yaml"
    asked = {
        "release": "votes",
        "samples": 4,
        "sequence_length": 32,
        "threshold": 2,
        "phase_seconds": 10,
        "preparation_seconds": 10,
    }
    plan.write_text(yaml.safe_dump(asked))
    agents = [tmp_path / silo / "agent.yaml" for silo in SILOS]
    with ExitStack() as stack:
        coordinator = stack.enter_context(served("aggregator.cli", "serve", config))
        coordinator.endpoint()
        for at, (silo, agent) in enumerate(zip(SILOS, agents, strict=True)):
            invitation, text = tmp_path / f"{silo}.yaml", write_text(tmp_path / f"{silo}.txt", 900, seed=at)
            invited = done(aggregator, "invite", "--config", config, "--silo", silo, "--out", invitation)
            known = ("--invitation", invitation, "--fingerprint", invited["fingerprint"])
            done(silo_agent, "enroll", *known, "--out", agent.parent, "--model", model, "--calibration", text)
            policy = yaml.safe_load((agent.parent / "policy.yaml").read_text())
            policy |= {"approval": "auto", "least_survivors": 2, "least_honest_survivors": 2, "budget": {"releases": 1}}
            policy |= SMALL_PLANS
            (agent.parent / "policy.yaml").write_text(yaml.safe_dump(policy))
        running = [stack.enter_context(served("silo_agent.cli", "run", agent)) for agent in agents]
        endpoints = {silo: [each.endpoint()] for silo, each in zip(SILOS, running, strict=True)}
        endpoints["aggregator"] = [coordinator.endpoint()]
        server = stack.enter_context(prometheus(tmp_path / "prometheus", endpoints))
        assert values(server, "sparsilo_silo_roster_pinned") == [0, 0, 0]
        for agent in agents:
            fingerprint = done(silo_agent, "roster", "show", "--config", agent)["fingerprint"]
            done(silo_agent, "roster", "pin", "--config", agent, "--fingerprint", fingerprint)
        assert until(lambda: values(server, "sparsilo_silo_roster_pinned") == [1, 1, 1], SECONDS)
        assert values(server, "sparsilo_aggregator_enrolled_silos") == [3]
        assert values(server, "sparsilo_aggregator_connected_silos") == [3]
        assert values(server, "sparsilo_silo_budget_spent_ratio") == [0] * 6, "of releases and of epsilon"
        assert alerts(server) == set()
        running[2].process.send_signal(signal.SIGKILL)
        submitted = done(aggregator, "plan", "submit", plan, "--config", config)
        done(aggregator, "rounds", "wait", submitted["run"], "--config", config, "--timeout", SECONDS)
        assert server.fires("SparsiloSiloDropped", job="aggregator", phase="plan")
        for silo in SILOS[:2]:
            assert server.fires("SparsiloBudgetNearlySpent", job=silo, budget="releases")
        assert alerts(server) == {"SparsiloSiloDropped", "SparsiloBudgetNearlySpent", "SparsiloBudgetExhausted"}
        assert [server.without_data(dashboard) for dashboard in DASHBOARDS] == [[], []]
        assert values(server, "sparsilo_silo_connected") == [1, 1]
        assert values(server, "sparsilo_aggregator_survivors") == [2]
        assert values(server, 'sparsilo_aggregator_runs_total{outcome="done"}') == [1]
        assert values(server, 'sparsilo_silo_decisions_total{decision="approved"}') == [1, 1]
        for role, count in (("aggregator", 1), ("silo", 2)):
            left = values(server, f"sparsilo_{role}_certificate_expiry_timestamp_seconds - time()")
            assert len(left) == count and all(7 * DAY < seconds < 366 * DAY for seconds in left)
        for party in ("aggregator", *SILOS[:2]):
            check_privacy(page(endpoints[party][0]), "silo" if party in SILOS else party)


def page(endpoint: str) -> str:
    connection = HTTPConnection(endpoint, timeout=120)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def check_privacy(text: str, role: str) -> None:
    """After a round with a drop: the contract and nothing else, and no silo's name, its own neither."""
    assert exposed(text) == documented(role)
    allowed = documented_values() | {"version": {version("sparsilo")}}
    assert not [label for label, found in exposed_values(text).items() if not found <= allowed[label]]
    assert "ward" not in text


def values(server: Prometheus, expression: str) -> list[float]:
    return [value for _, value in server.query(expression)]


def alerts(server: Prometheus) -> set[str]:
    return {labels["alertname"] for labels in server.firing()}
