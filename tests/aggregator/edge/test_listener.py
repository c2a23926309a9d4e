"""The aggregator's port: who shares it, whom it shows which certificate, and how long it waits for whom."""

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from aggregator import limits
from aggregator.edge import listener
from aggregator.edge.listener import Listener
from crypto.errors import ConfigError, IdentityError
from crypto.identity import Authority, Certified
from support.driven import looping, on

AUTHORITY = Authority("ours", datetime.now(UTC), timedelta(days=1))
SILO = AUTHORITY.issue("a")

pytestmark = pytest.mark.clause("7.14")


def certificate() -> Certified:
    return AUTHORITY.issue("aggregator", ("127.0.0.1",))


class Serving:
    """A listener that answers every call with `answer`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.own = certificate()

        async def method(request: bytes, _: Any) -> bytes:
            return await answer(request)

        handler = grpc.method_handlers_generic_handler("Test", {"Say": grpc.unary_unary_rpc_method_handler(method)})
        self.listener = Listener([handler], "127.0.0.1:0", self.current)
        self.port = on(loop, self.listener.start())

    def current(self) -> tuple[Certified, bytes]:
        return self.own, AUTHORITY.certificate

    def shown(self) -> bytes:
        """The certificate that a new connection is shown, DER."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        try:
            raw = socket.create_connection(("127.0.0.1", self.port), 20)
            with context.wrap_socket(raw) as tls:
                return tls.getpeercert(True) or b""
        except (ConnectionResetError, ssl.SSLEOFError):  # a server stopped: in its queue, or greeted by it
            return self.shown()

    def channel(self) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate, SILO.private_key, SILO.certificate)
        options = (("grpc.use_local_subchannel_pool", 1),)  # or channels to one address share a connection
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options)


@contextmanager
def serving(answer: Callable[[bytes], Awaitable[bytes]] | None = None) -> Iterator[Serving]:
    async def echo(request: bytes) -> bytes:
        return request

    with looping() as loop:
        made = Serving(loop, answer or echo)
        try:
            yield made
        finally:
            on(loop, made.listener.stop())


def say(channel: grpc.Channel, words: bytes) -> bytes:
    said: bytes = channel.unary_unary("/Test/Say")(words, timeout=120)
    return said


def say_again(channel: grpc.Channel, words: bytes) -> bytes:
    """Say it until it is not cut off by a server that leaves, as agents do."""
    try:
        return say(channel, words)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.CANCELLED:
            raise
        return say_again(channel, words)


def closed_after(connection: socket.socket) -> float:
    """How many seconds it takes until the other side ends the connection."""
    began = time.monotonic()
    connection.settimeout(60)
    with suppress(ConnectionResetError):
        while connection.recv(1024):
            pass
    return time.monotonic() - began


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LOOK_SECONDS", 0.05)


def test_a_call_under_way_is_not_cut_when_the_certificate_changes(hurried: None) -> None:
    """Twice, while the call waits on the first connection."""
    go_on = asyncio.Event()

    async def wait(request: bytes) -> bytes:
        await go_on.wait()
        return request

    with serving(wait) as served, served.channel() as channel, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(say, channel, b"patient")
        shown = [served.shown()]
        for _ in range(2):
            served.own = certificate()
            while (now := served.shown()) == shown[-1]:
                time.sleep(0.05)
            shown.append(now)
        assert len(set(shown)) == 3
        assert not waiting.done()
        served.listener._looking.get_loop().call_soon_threadsafe(go_on.set)
        assert waiting.result(120) == b"patient"


def test_connections_that_close_before_their_handshake_while_the_certificate_changes(hurried: None) -> None:
    with serving() as served, served.channel() as channel:
        assert say(channel, b"before") == b"before"
        first = served.shown()
        for _ in range(20):
            served.own = certificate()
            for _ in range(50):
                with suppress(ConnectionResetError):  # by the server that leaves: whoever called calls again
                    socket.create_connection(("127.0.0.1", served.port), 20).close()
        while served.shown() == first:
            time.sleep(0.05)
        assert say_again(channel, b"after") == b"after"


def test_a_certificate_that_cannot_be_read_leaves_the_earlier_one_in_use(
    hurried: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable() -> tuple[Certified, bytes]:
        raise IdentityError("authorities.pem: cannot be read")

    with serving() as served:
        first = served.shown()
        monkeypatch.setattr(served.listener, "_current", unreadable)
        while "the earlier certificate stays in use" not in caplog.text:
            time.sleep(0.05)
        assert served.shown() == first
        served.own = certificate()
        monkeypatch.setattr(served.listener, "_current", served.current)
        while served.shown() == first:
            time.sleep(0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104 - on a machine of a test
def test_a_port_has_one_owner(host: str) -> None:
    async def second(port: int) -> None:
        with pytest.raises(ConfigError, match="cannot listen"):
            await Listener([], f"{host}:{port}", lambda: (certificate(), b"")).start()

    with serving() as served:
        asyncio.run(second(served.port))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:http", "256.0.0.1:1", "no-such.invalid:8443", "203.0.113.1:1"]
)
def test_an_address_that_is_none_of_this_machine(address: str) -> None:
    async def start() -> None:
        await Listener([], address, lambda: (certificate(), b"")).start()

    with pytest.raises(ConfigError, match="cannot listen"):
        asyncio.run(start())


def test_who_connects_beyond_the_bound_is_turned_away_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's handshake lasts for ever, so the next one is let in."""
    monkeypatch.setattr(limits, "MOST_CONNECTIONS", 5)
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 2)
    with serving() as served, served.channel() as channel, ExitStack() as held:
        assert say(channel, b"first") == b"first"
        silent = [held.enter_context(socket.create_connection(("127.0.0.1", served.port), 20)) for _ in range(9)]
        began = time.monotonic()
        assert sum(closed_after(connection) < 1 for connection in silent[4:]) == 5
        assert say(channel, b"second") == b"second"
        closed_after(silent[0])
        assert 1 < time.monotonic() - began < 20
        with served.channel() as another:
            assert say(another, b"third") == b"third"


def test_a_quarter_of_the_file_descriptors_is_for_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    bounds = dict(listener._bounds())
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert bounds["grpc.max_allowed_incoming_connections"] == min(limits.MOST_CONNECTIONS, hard // 4)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_pings_without_end_is_cut_off(tmp_path: Path) -> None:
    """By hand: after the handshake a ping frame, time and again. 17 bytes each, of type 6, on stream 0."""
    with serving() as served:
        context = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        (tmp_path / "pair.pem").write_bytes(SILO.certificate + SILO.private_key)
        context.load_cert_chain(tmp_path / "pair.pem")
        with socket.create_connection(("127.0.0.1", served.port), 20) as raw, context.wrap_socket(raw) as tls:
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
            with pytest.raises(OSError):
                for _ in range(10_000):
                    tls.sendall(bytes.fromhex("000008060000000000") + bytes(8))
                    time.sleep(0.001)
