"""Each way of not reaching the aggregator is told apart, against real servers, and says what to do about it."""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.errors import ConnectionFailed, IdentityError, SparsiloError
from crypto.identity import Authority, Certified
from silo_agent.network import reachability
from silo_agent.network.proxy import Proxy
from silo_agent.network.reachability import TlsFiles, clock_skew, connect, resolve, shake_hands
from support.on_loopback import door, free_port, grpc_server, listening, odd_proxy, tinyproxy, tls_server

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
OURS = Authority("ours", NOW, 30 * DAY)
INTERCEPTING = Authority("Corp TLS Inspection CA", NOW, 30 * DAY)
SERVER = OURS.issue("aggregator", ("127.0.0.1", "localhost"))
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


class Home:
    """A silo's TLS files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.put(OURS.issue("silo-a"), OURS.certificate)

    def put(self, own: Certified, authority: bytes) -> None:
        self.files = TlsFiles(*(self.folder / name for name in ("tls.crt", "tls.key", "ca.crt")))
        self.files.certificate.write_bytes(own.certificate)
        self.files.private_key.write_bytes(own.private_key)
        self.files.authority.write_bytes(authority)

    def shake(self, port: int, host: str = "127.0.0.1", proxy: Proxy | None = None) -> str:
        return shake_hands(f"{host}:{port}", proxy, self.files, NOW)

    def fails(self, kind: type[SparsiloError], port: int, host: str = "127.0.0.1", proxy: Proxy | None = None) -> str:
        with pytest.raises(kind) as caught:
            self.shake(port, host, proxy)
        assert type(caught.value) is kind
        assert caught.value.hint
        return str(caught.value)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """A TLS server that shows a certificate; its port."""
    with ExitStack() as stack:

        def start(
            own: Certified = SERVER,
            *,
            clients: bytes = OURS.certificate,
            version: ssl.TLSVersion | None = None,
            alpn: tuple[str, ...] = ("h2",),
            first: bytes = SETTINGS,
        ) -> int:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            file = tmp_path / "server.pem"
            file.write_bytes(own.certificate + own.private_key)
            context.load_cert_chain(file)
            if version:
                context.minimum_version = context.maximum_version = version
            if clients:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=clients.decode())
            context.set_alpn_protocols(list(alpn))
            return stack.enter_context(tls_server(context, first))

        yield start


def proxy_at(port: int, credentials: str = "", host: str = "127.0.0.1") -> Proxy:
    return Proxy(host, port, "https_proxy", credentials)


# Names


def test_a_name_is_resolved() -> None:
    assert "127.0.0.1" in resolve("localhost:443", None)
    assert resolve("127.0.0.1:443", None) == "127.0.0.1 is 127.0.0.1"
    assert resolve("[::1]:443", None) == "::1 is ::1"


def test_with_a_proxy_only_its_name_is() -> None:
    said = resolve("aggregator.invalid:443", proxy_at(1))
    assert said == "127.0.0.1 is 127.0.0.1; the proxy resolves aggregator.invalid"


@pytest.mark.parametrize("host", ["aggregator.invalid", "a" * 70 + ".example.org", "a..b"])
def test_no_such_name(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host.endswith("invalid"):
        monkeypatch.setattr(socket, "getaddrinfo", none)  # a machine without a name server cannot tell
    with pytest.raises(ConnectionFailed, match=r"no such name \(check aggregator in the config; .* set proxy\)$"):
        resolve(f"{host}:443", None)
    with pytest.raises(ConnectionFailed, match=r"no such name \(check https_proxy\)$"):
        resolve("aggregator.example.org:443", proxy_at(3128, host=host))


def test_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def unanswered(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unanswered)
    with pytest.raises(ConnectionFailed, match=r"no name server answers \(allow .* 53"):
        resolve("aggregator.example.org:443", None)


# Connections


def refused(target: str, proxy: Proxy | None) -> str:
    with pytest.raises(ConnectionFailed) as caught:
        connect(target, proxy)
    assert caught.value.hint
    return str(caught.value)


def test_nobody_listens() -> None:
    port = free_port()
    assert f"127.0.0.1:{port}: refuses connections (check the port in aggregator" in refused(f"127.0.0.1:{port}", None)
    said = refused("aggregator.invalid:443", proxy_at(port))
    assert f"the proxy 127.0.0.1:{port}: refuses connections (check the port in https_proxy" in said


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that drops: here a queue that is full."""
    monkeypatch.setattr(reachability, "STEP_SECONDS", 0.3)
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        said = refused(f"127.0.0.1:{port}", None)
        assert f"does not answer (have outgoing TCP to 127.0.0.1:{port} allowed" in said
        assert "or set proxy" in said
        assert "set proxy" not in refused("aggregator.invalid:443", proxy_at(port))


@pytest.mark.parametrize(
    ("reply", "credentials", "said", "hint"),
    [
        (b"HTTP/1.1 407 Authentication\r\n\r\n", "", "asks for credentials", "proxy_file"),
        (b"HTTP/1.1 407 Authentication\r\n\r\n", "a:b", "refuses the credentials", "in https_proxy"),
        (
            b"HTTP/1.0 403 Filtered\r\n\r\n<p>no</p>",
            "",
            "does not allow a connection to aggregator.invalid:443",
            "CONNECT",
        ),
        (b"HTTP/1.1 502 Bad gateway\r\n\r\n", "", "cannot connect to aggregator.invalid:443 (status 502)", "resolve"),
        (b"HTTP/1.1 504 \r\n\r\n", "", "cannot connect to aggregator.invalid:443 (status 504)", "resolve"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "", "does not answer as an HTTP proxy does", "host and port in https_proxy"),
        (b"", "", "does not answer as an HTTP proxy does", "host and port in https_proxy"),
        (b"x" * 100_000, "", "does not answer as an HTTP proxy does", "host and port in https_proxy"),
    ],
)
def test_a_proxys_refusals_are_told_apart(reply: bytes, credentials: str, said: str, hint: str) -> None:
    with odd_proxy(reply) as (port, requests):
        answer = refused("aggregator.invalid:443", proxy_at(port, credentials))
    assert f"the proxy 127.0.0.1:{port}: {said}" in answer
    assert hint in answer
    assert requests[0].startswith(b"CONNECT aggregator.invalid:443 HTTP/1.1\r\nHost: aggregator.invalid:443\r\n")


def test_a_proxy_that_breaks_off_or_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(taken: socket.socket) -> None:
        taken.recv(1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with listening(reset) as port:
        assert "reset" in refused("aggregator.invalid:443", proxy_at(port))
    monkeypatch.setattr(reachability, "STEP_SECONDS", 0.3)
    with listening(lambda taken: taken.recv(1 << 16) and taken.recv(1) and None) as port:
        assert "timed out" in refused("aggregator.invalid:443", proxy_at(port))


@pytest.mark.parts
def test_through_a_real_proxy(home: Home, tmp_path: Path) -> None:
    with (
        grpc_server(SERVER, OURS.certificate) as port,
        door(port) as (way, callers),
        tinyproxy(tmp_path, "BasicAuth silo s3cret") as proxy,
    ):
        assert "ours" in home.shake(way, proxy=proxy_at(proxy.port, "silo:s3cret"))
        assert callers == ["127.0.0.2"]
        assert "asks for credentials" in home.fails(ConnectionFailed, way, proxy=proxy_at(proxy.port))
        said = home.fails(ConnectionFailed, way, proxy=proxy_at(proxy.port, "silo:wrong"))
        assert "refuses the credentials" in said
        assert "wrong" not in said
        said = home.fails(ConnectionFailed, free_port(), proxy=proxy_at(proxy.port, "silo:s3cret"))
        assert "cannot connect to 127.0.0.1" in said
        assert len(callers) == 1


# TLS


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_real_grpc_server(host: str, home: Home) -> None:
    with grpc_server(SERVER, OURS.certificate) as port:
        assert home.shake(port, host) == "TLSv1.3, the aggregator's certificate is from 'ours' and ends in 29 days"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_later(version: ssl.TLSVersion, home: Home, serve: Callable[..., int]) -> None:
    assert home.shake(serve(version=version)).startswith(version.name.replace("_", ".") + ", ")


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@pytest.mark.parametrize("clients", [b"", INTERCEPTING.certificate])
def test_an_intercepting_proxy_is_named(
    version: ssl.TLSVersion, clients: bytes, home: Home, serve: Callable[..., int]
) -> None:
    """Its own authority signs a certificate for the aggregator's name."""
    port = serve(INTERCEPTING.issue("aggregator", ("127.0.0.1",)), clients=clients, version=version)
    said = home.fails(IdentityError, port)
    by = "'Corp TLS Inspection CA'"
    if clients and version is ssl.TLSVersion.TLSv1_2:  # who asks for a client certificate may say nothing before
        by = "'an authority that it does not say'"
    assert said.startswith(
        f"an intercepting proxy: the certificate shown for 127.0.0.1 was issued by {by}, "
        f"not by the authority in {home.files.authority} "
    )
    assert "exempted from TLS inspection" in said


def test_an_intercepting_proxy_behind_a_proxy_is_named(home: Home, serve: Callable[..., int]) -> None:
    inspecting = serve(INTERCEPTING.issue("aggregator", ("aggregator.invalid",)), clients=b"")
    with odd_proxy(b"HTTP/1.1 200 OK\r\n\r\n", inspecting) as (port, _):
        said = home.fails(IdentityError, 443, "aggregator.invalid", proxy_at(port))
    assert "the certificate shown for aggregator.invalid was issued by 'Corp TLS Inspection CA'" in said


def test_the_silos_certificate_is_not_shown_to_who_intercepts(home: Home, tmp_path: Path) -> None:
    """Neither when it is found out, nor when it is asked for its name."""
    seen: list[object] = []
    own = INTERCEPTING.issue("aggregator", ("127.0.0.1",))
    (tmp_path / "inspecting.pem").write_bytes(own.certificate + own.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "inspecting.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=OURS.certificate.decode())

    def inspect(taken: socket.socket) -> None:
        with context.wrap_socket(taken, server_side=True) as tls:
            seen.append(tls.getpeercert())

    with listening(inspect) as port:
        home.fails(IdentityError, port)
    assert [each for each in seen if each] == []


def test_an_authority_of_the_same_name_with_another_key(home: Home, serve: Callable[..., int]) -> None:
    port = serve(Authority("ours", NOW, DAY).issue("aggregator", ("127.0.0.1",)), clients=b"")
    said = home.fails(IdentityError, port)
    assert "was issued by another 'ours' than the one in" in said
    assert "replaced" in said
    assert "intercepting" not in said


@pytest.mark.parametrize(
    ("start", "said", "hint"),
    [
        (NOW - 2 * DAY, "expired", "must renew it"),
        (NOW + 2 * DAY, "is not valid before", "tell the aggregator's people"),
    ],
)
def test_a_server_certificate_out_of_its_time(
    start: datetime, said: str, hint: str, home: Home, serve: Callable[..., int]
) -> None:
    own = OURS.issue("aggregator", ("127.0.0.1",), now=start, lifetime=DAY)
    answer = home.fails(IdentityError, serve(own, clients=b""))
    at = start + DAY if said == "expired" else start - timedelta(hours=1)
    assert f"{said} {at:%Y-%m-%d %H:%M} UTC (this machine's clock says {NOW:%Y-%m-%d %H:%M} UTC" in answer
    assert hint in answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_for_another_host(host: str, home: Home, serve: Callable[..., int]) -> None:
    own = OURS.issue("aggregator", ("aggregator.example.org", "10.0.0.1"))
    said = home.fails(IdentityError, serve(own, clients=b""), host)
    assert f"the certificate shown for {host} is for aggregator.example.org, 10.0.0.1" in said


def test_a_client_certificate_in_the_servers_place(home: Home, serve: Callable[..., int]) -> None:
    said = home.fails(IdentityError, serve(OURS.issue("127.0.0.1"), clients=b""))
    assert "is refused: unsu" in said  # unsuitable or unsupported purpose


REFUSED = {
    "of another authority": INTERCEPTING.issue("silo-a"),
    "expired": OURS.issue("silo-a", now=NOW - 2 * DAY, lifetime=DAY),
    "a server's": OURS.issue("silo-a", ("silo-a",)),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, None])
def test_a_refused_client_certificate(
    version: ssl.TLSVersion | None, case: str, home: Home, serve: Callable[..., int]
) -> None:
    home.put(REFUSED[case], OURS.certificate)
    with grpc_server(SERVER, OURS.certificate) as grpcs:
        said = home.fails(IdentityError, serve(version=version, first=b"") if version else grpcs)
    assert f"does not accept {home.files.certificate}: " in said
    assert "enrol anew" in said


@pytest.mark.parametrize(
    ("alpn", "first"), [(("http/1.1",), SETTINGS), ((), SETTINGS), (("h2",), b"HTTP/1.1 400 Bad Request\r\n\r\n")]
)
def test_a_web_server_is_no_aggregator(
    alpn: tuple[str, ...], first: bytes, home: Home, serve: Callable[..., int]
) -> None:
    assert "no gRPC server answers" in home.fails(ConnectionFailed, serve(alpn=alpn, first=first))


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_what_speaks_no_tls(reply: bytes | None, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "STEP_SECONDS", 0.5)

    def answer(taken: socket.socket) -> None:
        taken.recv(1 << 16)
        if reply is None:
            taken.recv(1)
        else:
            taken.sendall(reply)

    with listening(answer) as port:
        assert f"127.0.0.1:{port}: no TLS connection: " in home.fails(ConnectionFailed, port)


def test_files_that_cannot_be_used(home: Home) -> None:
    for file in (home.files.certificate, home.files.private_key, home.files.authority):
        content = file.read_bytes()
        for wrong in (b"", b"none"):
            file.write_bytes(wrong)
            assert "cannot be used" in home.fails(IdentityError, 1)
        file.unlink()
        assert "cannot be used" in home.fails(IdentityError, 1)
        file.write_bytes(content)


# Clocks


@pytest.mark.parametrize("ahead", [0, 299, -299, 300, -300])
def test_clocks_within_five_minutes(ahead: int) -> None:
    said = clock_skew(lambda: NOW, lambda: NOW + timedelta(seconds=ahead))
    assert (
        said == f"this machine's clock is {abs(ahead)} seconds {'ahead of' if ahead > 0 else 'behind'} the aggregator's"
    )


@pytest.mark.parametrize("ahead", [301, -301, 86400])
def test_clocks_that_differ_by_more(ahead: int) -> None:
    with pytest.raises(IdentityError, match=f"{abs(ahead)} seconds {'ahead of' if ahead > 0 else 'behind'} .*NTP"):
        clock_skew(lambda: NOW, lambda: NOW + timedelta(seconds=ahead))


def answered_slowly(at: int) -> str:
    """By a clock that is right, `at` seconds after a question whose answer took 1000."""
    own = iter((NOW, NOW + timedelta(seconds=1000)))
    return clock_skew(lambda: NOW + timedelta(seconds=at), lambda: next(own))


def test_a_slow_answer_is_no_skew() -> None:
    """It may be of any moment between question and answer."""
    assert "500 seconds ahead of" in answered_slowly(0)
    assert "0 seconds behind" in answered_slowly(500)
    assert "800 seconds behind" in answered_slowly(1300)
    for wrong in (-301, 1301):
        with pytest.raises(IdentityError):
            answered_slowly(wrong)


def test_an_aggregator_that_refuses_to_say_is_the_error() -> None:
    def refuses() -> datetime:
        raise IdentityError("silo-a was revoked")

    with pytest.raises(IdentityError, match="revoked"):
        clock_skew(refuses)
