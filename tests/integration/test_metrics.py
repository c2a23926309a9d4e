"""What Prometheus and an orchestrator see during a run: names as a contract, and nothing of any silo."""

import re
import time
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aggregator.local_agents import LocalAgents
from aggregator.rounds.spool import Spool
from monitoring.documented_metrics import documented, documented_values, exposed, exposed_values
from silo_agent.host import health
from silo_agent.results.sparse_checkpoint import write_sparse_model
from sparsilo.v1 import words_pb2
from support.commands import local
from support.models import tiny_llama, write_text

ROUND_PHASES = {"plan", "keys", "shares", "upload", "consistency", "unmask", "opening", "coin", "audit"}
PHASES = ROUND_PHASES | {"done", "aborted"}
ROLES = ("silo", "aggregator")

Samples = dict[tuple[str, tuple[str, ...]], float]


def get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    response = connection.getresponse()
    status, body = response.status, response.read().decode()
    connection.close()
    return status, body


def samples(text: str) -> Samples:
    """Values by name and sorted label values."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.values()))): s.value for family in families for s in family.samples}


def phase(found: Samples, role: str) -> list[str]:
    states = {labels[0]: value for (name, labels), value in found.items() if name == f"sparsilo_{role}_phase"}
    assert set(states) == PHASES
    assert set(states.values()) <= {0, 1}
    return [state for state, value in states.items() if value]


class Looks:
    """Fetches the aggregator's and one agent's pages when the first chunk arrives, and their metrics afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.during: dict[str, str] = {}
        self.after: dict[str, str] = {}
        self._ports: dict[str, int] = {}
        self._agents: list[LocalAgents] = []
        start, take, serve_health, write = LocalAgents.start, Spool.take, health.serve_health, write_sparse_model

        def remember_port(*arguments: Any) -> int:
            self._ports["aggregator"] = serve_health(*arguments)
            return self._ports["aggregator"]

        async def remember_homes(agents: LocalAgents, *arguments: Any) -> None:
            self._agents.append(agents)
            await start(agents, *arguments)

        def take_and_look(spool: Spool, stream: int, message: words_pb2.WordChunk) -> None:
            take(spool, stream, message)
            if not self.during:
                self._look(spool._silo)

        def look_and_write(*arguments: Any) -> Any:
            self.after["silo"] = until_done(self._ports["silo"])  # it waits for another round
            return write(*arguments)

        monkeypatch.setattr("aggregator.local.serve_health", remember_port)
        monkeypatch.setattr("aggregator.runs.run.write_sparse_model", look_and_write)
        monkeypatch.setattr(LocalAgents, "start", remember_homes)
        monkeypatch.setattr(Spool, "take", take_and_look)

    def _look(self, silo: str) -> None:
        log = (self._agents[0].home(silo) / "agent.log").read_text()
        self._ports["silo"] = int(re.findall(r"metrics on http://127\.0\.0\.1:(\d+)/metrics", log)[0])
        for role, port in self._ports.items():
            status, self.during[role] = get(port, "/metrics")
            assert status == 200
            assert get(port, "/livez") == (200, "200 OK\n")
            assert get(port, "/readyz") == (200, "200 OK\n")
            assert get(port, "/secret")[0] == 404

    def look_at_aggregator(self) -> None:
        self.after["aggregator"] = get(self._ports["aggregator"], "/metrics")[1]


def test_metrics_and_probes_during_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "folder-of-the-model")
    files = [write_text(tmp_path / f"secret-ward-{name}.txt", 900, seed=at) for at, name in enumerate("abc")]
    looks = Looks(monkeypatch)
    ran = local(model, files, tmp_path / "out", capsys, "--samples", 4, "--sequence-length", 32)
    assert ran.code == 0, ran.err
    looks.look_at_aggregator()
    for role in ROLES:
        check_role(role, looks.during[role], looks.after[role], ["secret", str(tmp_path), model.name])
    during, after = samples(looks.during["aggregator"]), samples(looks.after["aggregator"])
    assert during["sparsilo_aggregator_silos", ()] == 3
    assert during["sparsilo_aggregator_survivors", ()] == 0
    assert after["sparsilo_aggregator_survivors", ()] == 3
    assert not [labels for (name, labels), value in after.items() if name.endswith("dropped_total") and value]
    traffic = ran.data["bytes"]
    up, down = (sum(silo[way] for silo in traffic.values()) for way in ("up", "down"))
    assert up <= after["sparsilo_aggregator_received_bytes_total", ()]
    assert down <= after["sparsilo_aggregator_sent_bytes_total", ()]
    sent = samples(looks.after["silo"])["sparsilo_silo_sent_bytes_total", ()]
    assert sent == pytest.approx(up / 3, rel=0.02), "one silo's bytes, the same at both ends"


def check_role(role: str, during: str, after: str, private: list[str]) -> None:
    """What holds for both roles alike, while words arrive and after the round."""
    for text in (during, after):
        assert exposed(text) == documented(role)
        allowed = documented_values() | {"version": {version("sparsilo")}}
        assert not [label for label, values in exposed_values(text).items() if not values <= allowed[label]]
        assert not [word for word in private if word in text]
    found, later = samples(during), samples(after)
    assert phase(found, role) == ["upload"]
    assert phase(later, role) == ["done"]
    rounds = (f"sparsilo_{role}_rounds_total", ("done", "votes"))
    assert found[rounds] == 0
    assert later[rounds] == 1
    assert found[f"sparsilo_{role}_last_round_timestamp_seconds", ()] == 0
    assert 0 <= time.time() - later[f"sparsilo_{role}_last_round_timestamp_seconds", ()] < 60
    ended = {labels: value for (name, labels), value in later.items() if name == f"sparsilo_{role}_phase_seconds_count"}
    assert ended == {(name,): 1 for name in ROUND_PHASES}
    for counter in ("received_bytes", "sent_bytes"):
        assert 0 < found[f"sparsilo_{role}_{counter}_total", ()] < later[f"sparsilo_{role}_{counter}_total", ()]


def until_done(port: int) -> str:
    """The agent's metrics once it has heard that the round is done."""
    for _ in range(200):
        text = get(port, "/metrics")[1]
        if samples(text)["sparsilo_silo_rounds_total", ("done", "votes")]:
            return text
        time.sleep(0.02)
    raise AssertionError("the agent's round is not done")
