"""Anybody who reaches the port, without a certificate: connects and goes, says nothing, or says nonsense."""

import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from support.deployment import Deployment

pytestmark = pytest.mark.clause("7.14")

CONNECTIONS = 3000


@pytest.fixture
def deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Deployment]:
    made = Deployment(tmp_path, ["a"], capsys)
    made.serve()
    made.enroll("a")
    yield made
    made.close()


def connect(port: int, number: int) -> None:
    noise = random.Random(number)
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 20) as connection:
        if number % 4 == 0:  # the others close before the handshake
            connection.sendall(noise.choice([b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\n"]) + noise.randbytes(300))


def test_the_aggregator_goes_on(deployment: Deployment) -> None:
    server = deployment.programs[0]
    with ThreadPoolExecutor(20) as threads:
        for number in range(CONNECTIONS):
            threads.submit(connect, deployment.port, number)
    shown = deployment.silo("a", "roster", "show")
    assert (shown.code, server.process.poll()) == (0, None), server.said[-2000:]
    assert server.end() == 0
    assert "Traceback" not in server.said
    assert len(server.said) < 10_000, "noise fills no disk"
