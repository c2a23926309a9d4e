"""Real parts of a network, on loopback: tinyproxy, a gRPC server behind a door that notes who comes in, a proxy that is
as odd as a test wants it, and TLS servers.
"""

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest

from crypto.identity import Certified

OUTGOING = "127.0.0.2"
"""Where tinyproxy's own connections come from."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Tinyproxy:
    """A process of its own."""

    def __init__(self, folder: Path, *directives: str, port: int = 0) -> None:
        self.port = port or free_port()
        self._log = folder / f"tinyproxy-{self.port}.log"
        config = folder / f"tinyproxy-{self.port}.conf"
        lines = (f"Port {self.port}", "Listen 127.0.0.1", f"Bind {OUTGOING}", "Timeout 60", "MaxClients 50")
        config.write_text("\n".join((*lines, f'LogFile "{self._log}"', "LogLevel Connect", *directives, "")))
        program = shutil.which("tinyproxy")
        if program is None:
            pytest.fail("tinyproxy is missing: apt-get install tinyproxy")
        self._process = subprocess.Popen([program, "-d", "-c", config], stdout=subprocess.DEVNULL)
        for _ in range(6000):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        pytest.fail(f"tinyproxy does not start: exit code {self._process.poll()}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def asked_for(self) -> set[str]:
        """The addresses that it was to CONNECT to, allowed or not."""
        return set(re.findall(r"CONNECT (\S+) HTTP/1", self._log.read_text(errors="replace")))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(120)


@contextmanager
def tinyproxy(folder: Path, *directives: str) -> Iterator[Tinyproxy]:
    proxy = Tinyproxy(folder, *directives)
    try:
        yield proxy
    finally:
        proxy.stop()


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on loopback that answers each connection in a thread of its own; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(50) as threads:

        def one(taken: socket.socket) -> None:
            with taken, suppress(OSError):
                taken.settimeout(20)
                answer(taken)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threads.submit(one, server.accept()[0])

        thread = Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def pipe(here: socket.socket, port: int) -> None:
    """Both ways, until one side ends."""
    with socket.create_connection(("127.0.0.1", port), 20) as there, ThreadPoolExecutor(1) as back:
        back.submit(_pass_on, there, here)
        _pass_on(here, there)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def door(port: int) -> Iterator[tuple[int, list[str]]]:
    """A way to `port`: its own port, and the addresses that TCP connections came from."""
    callers: list[str] = []

    def answer(taken: socket.socket) -> None:
        callers.append(taken.getpeername()[0])
        pipe(taken, port)

    with listening(answer) as own:
        yield own, callers


@contextmanager
def odd_proxy(reply: bytes, port: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """Answers every CONNECT with `reply` and pipes to `port`, whatever was asked for; its port, and the requests."""
    requests: list[bytes] = []

    def answer(taken: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (data := taken.recv(1024)):
            request += data
        requests.append(request)
        taken.sendall(reply)
        if port:
            pipe(taken, port)

    with listening(answer) as own:
        yield own, requests


def caller(context: Any) -> bytes:
    """The common name of whoever calls."""
    [name] = context.auth_context()["x509_common_name"]
    return bytes(name)


@contextmanager
def grpc_server(own: Certified, authority: bytes, answer: Callable[[Any], bytes] = caller) -> Iterator[int]:
    """Mutual TLS; answers every call with what `answer` makes of its context. Its port."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: answer(context))

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    pair = (own.private_key, own.certificate)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], authority, True))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def tls_server(context: ssl.SSLContext, first: bytes = b"") -> Iterator[int]:
    """Says `first` after the handshake and waits for the client to go; its port."""

    def answer(taken: socket.socket) -> None:
        with context.wrap_socket(taken, server_side=True) as tls:
            tls.sendall(first)
            while tls.recv(1024):
                pass

    with listening(answer) as port:
        yield port
