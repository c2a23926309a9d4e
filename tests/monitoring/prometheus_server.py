"""A real Prometheus (Debian's) on loopback, with the charts' alert rules, over endpoints that somebody else serves."""

import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any
from urllib.parse import urlencode

import yaml

HELM = Path(__file__).parents[2] / "deploy" / "helm"
DASHBOARDS = (HELM / "aggregator/dashboards/rounds.json", HELM / "silo-agent/dashboards/silo.json")
RULES = (HELM / "aggregator/rules/alerts.yaml", HELM / "silo-agent/rules/alerts.yaml")
NAMESPACE = "sparsilo"
"""The label that an operator's monitors would add."""


def program(name: str) -> str:
    """Its path. The tests do not skip: CI installs Debian's `prometheus`, which has promtool too."""
    found = shutil.which(name)
    assert found, f"{name} is missing; Debian: apt-get install prometheus"
    return found


@contextmanager
def prometheus(
    folder: Path, endpoints: Mapping[str, Sequence[str]], rules: Sequence[Path] = RULES, address: str = "127.0.0.1:0"
) -> Iterator["Prometheus"]:
    """Scrapes `endpoints`, host:port by job, every second, into `folder`; yields when each has been scraped once."""
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(file.absolute()) for file in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [*targets], "labels": {"namespace": NAMESPACE}}]}
            for job, targets in endpoints.items()
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "prometheus.yaml", folder / "prometheus.log"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    options = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}")
    with log.open("wb") as out:
        process = Popen([program("prometheus"), *options], stdout=out, stderr=STDOUT)
    try:
        until(lambda: process.poll() is not None or "Server is ready" in log.read_text(), 120)
        heard = re.search(r'msg="Listening on" address=(\S+):(\d+)', log.read_text())
        assert heard and process.poll() is None, log.read_text()
        server = Prometheus(heard[1], int(heard[2]))
        targets = sum(map(len, endpoints.values()))
        assert until(lambda: sum(value for _, value in server.query("up")) == targets, 120), server.get("targets")
        yield server
    finally:
        process.terminate()
        process.wait(120)


def until(true: Callable[[], Any], seconds: float) -> Any:
    """What `true` gives once that is true; what it gives in the end where it never is."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


class Prometheus:
    """Its HTTP API."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._since = time.time()

    def get(self, what: str, **parameters: object) -> Any:
        """`data` of an answer of /api/v1; a query that Prometheus cannot read fails here, with what it says."""
        connection = HTTPConnection(self._host, self._port, timeout=120)
        connection.request("GET", f"/api/v1/{what}?{urlencode(parameters)}")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series of an instant query."""
        return [(each["metric"], float(each["value"][1])) for each in self.get("query", query=expression)["result"]]

    def history(self, expression: str) -> list[float]:
        """Every value of every series since this server was started, second by second."""
        found = self.get("query_range", query=expression, start=self._since, end=time.time(), step=1)["result"]
        return [float(value) for series in found for _, value in series["values"]]

    def firing(self) -> list[dict[str, str]]:
        """Labels of every alert that fires now; `alertname` is one of them."""
        return [each["labels"] for each in self.get("alerts")["alerts"] if each["state"] == "firing"]

    def fires(self, alert: str, seconds: float = 120, **labels: str) -> bool:
        """Whether an alert with these labels fires within so many seconds."""
        wanted = {"alertname": alert, **labels}.items()
        return bool(until(lambda: [each for each in self.firing() if wanted <= each.items()], seconds))

    def without_data(self, dashboard: Path, seconds: float = 120) -> list[str]:
        """What is still empty on this dashboard after so many seconds, with everything chosen and since this server was
        started: variables without a value, and panels' queries without a number.
        """
        board = json.loads(dashboard.read_text(encoding="utf-8"))
        return [] if until(lambda: not self._empty(board), seconds) else self._empty(board)

    def _empty(self, board: Mapping[str, Any]) -> list[str]:
        chosen = {"__rate_interval": "10s", "__interval": "1s", "__range": f"{math.ceil(time.time() - self._since)}s"}
        empty = []
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                values = self._values(substituted(variable["query"], chosen))
                chosen[variable["name"]] = f"({'|'.join(map(re.escape, values))})".replace("\\", "\\\\")
                empty += [] if values else [f"${variable['name']}: {variable['query']}"]
        for title, target in queries(board):
            expression = substituted(target["expr"], chosen)
            instant = target.get("instant", False)
            found = [value for _, value in self.query(expression)] if instant else self.history(expression)
            empty += [] if any(map(math.isfinite, found)) else [f"{title}: {expression}"]
        return empty

    def _values(self, query: str) -> list[str]:
        """As Grafana's `label_values(SERIES, LABEL)`."""
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert asked, query
        values: list[str] = self.get(f"label/{asked[2]}/values", **{"match[]": asked[1]})
        return values


def queries(board: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Title and target of every query of every panel, those of collapsed rows too."""
    for panel in board["panels"]:
        for each in (panel, *panel.get("panels", [])):
            yield from ((each["title"], target) for target in each.get("targets", []))


def substituted(expression: str, chosen: Mapping[str, str]) -> str:
    """`$name` and `${name}` by what is chosen. A variable that the dashboard does not have fails."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: chosen[found[1] or found[2]], expression)
