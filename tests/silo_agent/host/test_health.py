"""The HTTP port: metrics for Prometheus, and the two probes of an orchestrator."""

import socket
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry, Counter

from crypto.errors import ConfigError
from silo_agent.host.health import serve_health


def get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    response = connection.getresponse()
    status, body = response.status, response.read().decode()
    connection.close()
    return status, body


def test_probes_and_metrics(capfd: pytest.CaptureFixture[str]) -> None:
    registry, ready = CollectorRegistry(), False
    counter = Counter("things", "Things.", registry=registry)
    port = serve_health(registry, lambda: ready, "127.0.0.1", 0)
    assert get(port, "/livez") == (200, "200 OK\n")
    assert get(port, "/readyz") == (503, "503 Service Unavailable\n")
    ready = True
    assert get(port, "/readyz") == (200, "200 OK\n")
    assert "things_total 0.0" in get(port, "/metrics")[1]
    counter.inc(3)
    status, exposition = get(port, "/metrics")
    assert status == 200
    assert "things_total 3.0" in exposition
    assert capfd.readouterr().err == "", "probes are not logged"


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/livez/x", "/favicon.ico", "/../etc/passwd"])
def test_nothing_else_is_there(path: str) -> None:
    assert get(serve_health(CollectorRegistry(), lambda: True, "127.0.0.1", 0), path) == (404, "404 Not Found\n")


def test_a_port_that_was_asked_for_and_one_that_is_taken() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert serve_health(CollectorRegistry(), lambda: True, "127.0.0.1", port) == port
    with pytest.raises(ConfigError, match=f"metrics address 127.0.0.1:{port}: Address already in use"):
        serve_health(CollectorRegistry(), lambda: True, "127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no-such-host.invalid", 0)])
def test_an_address_that_is_not_this_machines(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=f"metrics address {host}:{port}: "):
        serve_health(CollectorRegistry(), lambda: True, host, port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist(port: int) -> None:
    with pytest.raises(ConfigError, match=f"metrics address 127.0.0.1:{port}: "):
        serve_health(CollectorRegistry(), lambda: True, "127.0.0.1", port)
