"""Which proxy is chosen; and that gRPC, whatever its own environment says, dials it and nothing else."""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import ConfigError
from crypto.identity import Authority
from silo_agent.network.proxy import EXCEPTIONS, VARIABLES, Proxy, chosen_proxy, dialling
from support.on_loopback import OUTGOING, Tinyproxy, door, free_port, grpc_server, odd_proxy, tinyproxy

TARGET = "aggregator.example.org:443"
WORD = "s3cr%3At"


# The choice


def chosen(setting: str = "", target: str = TARGET, **environment: str) -> str:
    """host:port of the proxy, or nothing."""
    return str(chosen_proxy(setting, target, environment) or "")


def test_nothing_said_is_no_proxy() -> None:
    assert chosen() == ""
    assert chosen(https_proxy="", HTTP_PROXY=" ") == ""


def test_the_setting_decides_alone() -> None:
    everything = dict.fromkeys(VARIABLES, "http://of.environment:1")
    assert chosen("none", **everything) == ""
    assert chosen("http://of.config:2", **everything) == "of.config:2"
    assert chosen("http://of.config:2", **dict.fromkeys(EXCEPTIONS, "*")) == "of.config:2"
    assert chosen("none", https_proxy="socks5://of.environment:1") == ""


def test_both_spellings_of_every_variable_are_read_and_the_most_specific_one_wins() -> None:
    names = [name for name in VARIABLES if name.islower()]
    assert names == ["grpc_proxy", "https_proxy", "http_proxy", "all_proxy"]
    assert {*names, *map(str.upper, names)} == set(VARIABLES)
    for at, name in enumerate(VARIABLES):
        later = {other: f"http://other:{port}" for port, other in enumerate(VARIABLES[at + 1 :], 1)}
        proxy = chosen_proxy("", TARGET, {**later, name: "http://this:9"})
        assert (str(proxy), proxy and proxy.origin) == ("this:9", name)
    assert chosen(https_proxy="", HTTP_PROXY="http://this:9") == "this:9"


COVERED = {
    TARGET: (
        *("aggregator.example.org", "AGGREGATOR.Example.org", "example.org", ".example.org", "*.example.org", "org"),
        *(
            "*",
            "aggregator.example.org:443",
            ".example.org:443",
            "*:443",
            "example.org.",
            "a, b,example.org",
            "a example.org",
        ),
    ),
    "10.1.2.3:8443": ("10.1.2.3", "10.0.0.0/8", "10.1.2.3/8", "10.1.2.3:8443", "*", "::1,10.1.2.0/24"),
    "[fd00::5]:443": ("fd00::5", "[fd00::5]", "fd00:0::5", "fd00::/8", "[fd00::5]:443", "*"),
}
NOT_COVERED = {
    TARGET: (
        *("other.example.org", "gregator.example.org", "xample.org", ".aggregator.example.org", "10.0.0.0/8", ",", "."),
        *("aggregator.example.org:8443", ".example.org:8443", "*:80", "a.aggregator.example.org", "example", "exam*"),
    ),
    "10.1.2.3:8443": ("10.1.2.30", "11.0.0.0/8", "10.1.2.3:443", "2.3", ".3", "0.0.0.0/99", "::/0"),
    "[fd00::5]:443": ("fd00::6", "fe80::/10", "[fd00::5]:444", "0.0.0.0/0"),
}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions(name: str) -> None:
    for expected, cases in (("", COVERED), ("p:1", NOT_COVERED)):
        for target, entries in cases.items():
            for entry in entries:
                assert chosen("", target, HTTPS_PROXY="http://p:1", **{name: entry}) == expected, (target, entry)


def test_what_is_meant_for_grpc_comes_first_among_exceptions() -> None:
    assert chosen(https_proxy="http://p:1", no_grpc_proxy="elsewhere", no_proxy="*") == "p:1"
    assert chosen(https_proxy="http://p:1", no_grpc_proxy="", NO_PROXY="*") == ""


@pytest.mark.parametrize(
    ("url", "host", "port", "credentials"),
    [
        ("http://proxy:3128", "proxy", 3128, ""),
        ("HTTP://proxy.example.org:80/", "proxy.example.org", 80, ""),
        ("http://10.0.0.1:3128", "10.0.0.1", 3128, ""),
        ("http://[fd00::1]:3128", "fd00::1", 3128, ""),
        ("http://silo:s3cret@proxy:3128", "proxy", 3128, "silo:s3cret"),
        ("http://silo:a%40b%3Ac%2F@proxy:3128", "proxy", 3128, "silo:a@b:c/"),
        ("http://silo:a@b@proxy:3128", "proxy", 3128, "silo:a@b"),
        ("http://silo@proxy:3128", "proxy", 3128, "silo"),
    ],
)
def test_what_is_read_of_an_url(url: str, host: str, port: int, credentials: str) -> None:
    assert chosen_proxy("", TARGET, {"ALL_PROXY": url}) == Proxy(host, port, "ALL_PROXY", credentials)
    found = chosen_proxy(url, TARGET, {})
    assert found is not None
    assert found.origin == "the config's proxy"
    assert str(found) == url.rpartition("@")[2].lower().removeprefix("http://").rstrip("/")


UNUSABLE = {
    "kind https": f"https://silo:{WORD}@proxy:3128",
    "kind socks5": f"socks5://silo:{WORD}@proxy:1080",
    "kind socks5h": f"SOCKS5H://silo:{WORD}@proxy:1080",
    "kind socks4": f"socks4://silo:{WORD}@proxy:1080",
    "kind socks": f"socks://silo:{WORD}@proxy:1080",
}
NO_URLS = (
    *(f"silo:{WORD}@proxy:3128", f"http://silo:{WORD}@proxy", f"http://silo:{WORD}@:3128"),
    *(f"http://silo:{WORD}@proxy:0", f"http://silo:{WORD}@proxy:65536", f"http://silo:{WORD}@proxy:port"),
    *(f"http://silo:{WORD}@proxy:3128/path", f"http://silo:{WORD}@proxy:3128?x", f"http://silo:{WORD}@a b:3128"),
    *(f"http://silo:{WORD}/@proxy:3128", f"http://silo:{WORD}@[fd00::1:3128", f"http//silo:{WORD}@proxy:3128"),
    *(f"http://silo:{WORD}%ff@proxy:3128", f"ftp://silo:{WORD}@proxy:3128", WORD, f"http://{WORD}\n@p:1\nx"),
)


@pytest.mark.parametrize("origin", ["the config's proxy", *VARIABLES])
def test_an_unusable_url_is_an_error_that_names_where_it_comes_from_and_nothing_of_it(origin: str) -> None:
    for said, url in (*UNUSABLE.items(), *(("is not an HTTP proxy's URL", url) for url in NO_URLS)):
        setting, environment = (url, {}) if origin not in VARIABLES else ("", {"ALL_PROXY": "http://p:1", origin: url})
        with pytest.raises(ConfigError) as caught:
            chosen_proxy(setting, TARGET, environment)
        assert said in str(caught.value), url
        assert str(caught.value).startswith(f"{origin}: ")
        assert "http://host:port" in caught.value.hint
        assert not any(secret in str(caught.value) for secret in (WORD, "s3cr", "silo")), url
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_exception_comes_before_an_unusable_url() -> None:
    assert chosen(all_proxy="socks5://p:1", no_proxy="example.org") == ""


@given(st.text(max_size=60))
def test_no_text_is_taken_for_a_direct_connection(setting: str) -> None:
    """But for the two that say so."""
    try:
        proxy = chosen_proxy(setting, TARGET, {})
    except ConfigError:
        return
    assert proxy is not None or setting in ("", "none")


def test_credentials_are_in_no_text_of_a_proxy() -> None:
    proxy = chosen_proxy("http://silo:s3cret@proxy:3128", TARGET, {})
    assert "s3cret" not in f"{proxy} {proxy!r} {[proxy]} {vars(proxy).keys()}"


@pytest.mark.parametrize(
    "target", ["aggregator", "aggregator:", ":443", "a:0", "a:65536", "https://a:443", "a:443/x", "unix:/a"]
)
def test_an_aggregator_is_host_and_port(target: str) -> None:
    with pytest.raises(ConfigError, match="is not host:port"):
        chosen_proxy("none", target, {})


# gRPC

OURS = Authority("ours", datetime.now(UTC), timedelta(days=1))
SERVER = OURS.issue("aggregator", ("127.0.0.1",))
SILO = OURS.issue("silo-a")


@dataclass
class World:
    """An aggregator's gRPC server behind a door, and a proxy."""

    target: str
    callers: list[str]
    """Where TCP connections to the aggregator came from."""
    proxy: Tinyproxy

    def call(self, proxy: Proxy | None) -> bytes:
        """The caller as the aggregator sees it. Raises grpc.RpcError."""
        credentials = grpc.ssl_channel_credentials(OURS.certificate, SILO.private_key, SILO.certificate)
        address, options = dialling(self.target, proxy)
        with grpc.secure_channel(address, credentials, options) as channel:
            answer: bytes = channel.unary_unary("/service/Method")(b"", timeout=20)
            return answer

    def fails_closed(self, proxy: Proxy | None) -> str:
        """The details, after nothing reached the aggregator."""
        with pytest.raises(grpc.RpcError) as caught:
            self.call(proxy)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert self.callers == []
        return str(caught.value.details())


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        grpc_server(SERVER, OURS.certificate) as port,
        door(port) as (way, callers),
        tinyproxy(tmp_path_factory.mktemp("proxy")) as proxy,
    ):
        yield World(f"127.0.0.1:{way}", callers, proxy)


@pytest.fixture
def world(part: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    part.callers.clear()
    return part


def hostile(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    """All that makes gRPC choose another way than it was told."""
    for name in VARIABLES:
        monkeypatch.setenv(name, f"http://{dead}")
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", dead)
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.0/8")


@pytest.mark.parts
def test_the_door_tells_direct_connections_from_proxied_ones(world: World) -> None:
    assert world.call(None) == b"silo-a"
    assert world.callers == ["127.0.0.1"]
    assert world.call(chosen_proxy(world.proxy.url, world.target, {})) == b"silo-a"
    assert world.callers == ["127.0.0.1", OUTGOING]
    assert world.target in world.proxy.asked_for


@pytest.mark.parts
@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_leads_through_the_proxy(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, world.proxy.url)
    assert world.call(chosen_proxy("", world.target, {name: world.proxy.url})) == b"silo-a"
    assert world.callers == [OUTGOING]


@pytest.mark.parts
@pytest.mark.parametrize("name", EXCEPTIONS)
@pytest.mark.parametrize("entry", ["*", "127.0.0.1", "127.0.0.0/8"])
def test_no_exception_of_grpcs_own_overrules_a_setting(
    name: str, entry: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, entry)
    assert world.call(chosen_proxy(world.proxy.url, world.target, {name: entry})) == b"silo-a"
    assert world.callers == [OUTGOING]
    world.callers.clear()
    dead = chosen_proxy(f"http://127.0.0.1:{free_port()}", world.target, {name: entry})
    world.fails_closed(dead)


@pytest.mark.parts
def test_an_exception_that_is_ours_leads_past_a_dead_proxy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"HTTPS_PROXY": f"http://127.0.0.1:{free_port()}", "NO_PROXY": "127.0.0.0/8"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert world.call(chosen_proxy("", world.target, environment)) == b"silo-a"
    assert world.callers == ["127.0.0.1"]


@pytest.mark.parts
@pytest.mark.parametrize("through", [True, False])
def test_no_variable_of_grpcs_own_leads_anywhere_else(
    through: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(monkeypatch, f"127.0.0.1:{free_port()}")
    assert world.call(chosen_proxy(world.proxy.url if through else "none", world.target, {})) == b"silo-a"
    assert world.callers == [OUTGOING if through else "127.0.0.1"]


@pytest.mark.parts
def test_a_proxy_that_is_down_fails_closed(world: World) -> None:
    details = world.fails_closed(chosen_proxy(f"http://127.0.0.1:{free_port()}", world.target, {}))
    assert "Connection refused" in details


@pytest.mark.parts
def test_a_proxy_whose_name_is_unknown_fails_closed(world: World) -> None:
    world.fails_closed(chosen_proxy("http://proxy.invalid:3128", world.target, {}))


@pytest.mark.parts
@pytest.mark.parametrize(
    "directives", [("ConnectPort 9",), ("FilterURLs On", "FilterDefaultDeny Yes", 'Filter "{filter}"')]
)
def test_a_proxy_that_refuses_fails_closed(directives: tuple[str, ...], world: World, tmp_path: Path) -> None:
    (tmp_path / "filter").write_text("elsewhere\n")
    filled = [line.format(filter=tmp_path / "filter") for line in directives]
    with tinyproxy(tmp_path, *filled) as proxy:
        details = world.fails_closed(chosen_proxy(proxy.url, world.target, {}))
        assert "403" in details
        assert proxy.asked_for == {world.target}


@pytest.mark.parts
@pytest.mark.parametrize("reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"])
def test_what_is_no_proxy_fails_closed(reply: bytes, world: World) -> None:
    with odd_proxy(reply) as (port, requests):
        world.fails_closed(chosen_proxy(f"http://127.0.0.1:{port}", world.target, {}))
    assert requests


@pytest.mark.parts
def test_credentials(world: World, tmp_path: Path) -> None:
    with tinyproxy(tmp_path, "BasicAuth silo s3cret") as proxy:
        for user in ("", "silo:wrong@", "other:s3cret@", "silo@"):
            url = proxy.url.replace("//", f"//{user}")
            details = world.fails_closed(chosen_proxy(url, world.target, {}))
            assert details.endswith(("407", "401"))  # 401: as this version answers wrong ones
        url = proxy.url.replace("//", "//silo:s%33cret@")
        assert world.call(chosen_proxy("", world.target, {"HTTPS_PROXY": url})) == b"silo-a"
        assert world.callers == [OUTGOING]


@pytest.mark.parts
def test_credentials_of_any_characters(world: World) -> None:
    with odd_proxy(b"HTTP/1.1 407 No\r\n\r\n") as (port, requests):
        url = f"http://s%C3%AFlo:%40%3A%2F%0D%0AEvil%3A%20x{'y' * 200}@127.0.0.1:{port}"
        world.fails_closed(chosen_proxy(url, world.target, {}))
    head, _, _ = requests[0].partition(b"\r\n\r\n")
    [sent] = [line for line in head.split(b"\r\n") if line.lower().startswith(b"proxy-authorization:")]
    assert b64decode(sent.rpartition(b" ")[2], validate=True).decode() == f"sïlo:@:/\r\nEvil: x{'y' * 200}"
    assert b"Evil" not in head


@pytest.mark.parts
def test_the_certificate_must_still_be_the_aggregators_and_only_the_proxy_need_resolve_its_name(world: World) -> None:
    """A proxy that leads elsewhere: to another member of the same federation, say."""
    _, _, own = world.target.partition(":")
    with odd_proxy(b"HTTP/1.1 200 OK\r\n\r\n", int(own)) as (port, requests):
        proxy = chosen_proxy(f"http://127.0.0.1:{port}", world.target, {})
        assert World(world.target, world.callers, world.proxy).call(proxy) == b"silo-a"
        with pytest.raises(grpc.RpcError) as caught:
            World("aggregator.invalid:443", world.callers, world.proxy).call(proxy)
        assert "Hostname Verification" in str(caught.value.details())
        assert b"CONNECT aggregator.invalid:443 HTTP/1" in requests[-1]
    named = OURS.issue("aggregator", ("aggregator.invalid",))
    with grpc_server(named, OURS.certificate) as server, odd_proxy(b"HTTP/1.1 200 OK\r\n\r\n", server) as (port, _):
        proxy = chosen_proxy(f"http://127.0.0.1:{port}", "aggregator.invalid:443", {})
        assert World("aggregator.invalid:443", [], world.proxy).call(proxy) == b"silo-a"
