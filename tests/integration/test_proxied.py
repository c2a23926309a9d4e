"""The agent's transport through a real proxy: all of it, and nothing past it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Timer

import pytest
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.round_driver import RoundDriver
from crypto.encoding.wire import encode
from crypto.errors import ConfigError, ConnectionFailed
from crypto.identity import Authority
from silo_agent.host.metrics import unseen
from silo_agent.network.calls import Upload
from silo_agent.network.dialled import dialled
from silo_agent.network.proxy import EXCEPTIONS, VARIABLES, chosen_proxy
from silo_agent.network.transport import Transport
from sparsilo.v1 import round_pb2, words_pb2
from support.driven import serving
from support.on_loopback import OUTGOING, Tinyproxy, door, free_port

AUTHORITY = Authority("test", datetime.now(UTC), timedelta(days=1))
SERVER = AUTHORITY.issue("aggregator", ("127.0.0.1",))
SILO = AUTHORITY.issue("a")
OVER = round_pb2.Offer(over=round_pb2.Over())
HELD = encode(words_pb2.HeldRequest())
MESSAGES = [encode(words_pb2.WordChunk(index=index, words=bytes([index]) * 1_000_000)) for index in range(12)]


class Answers(RoundDriver):
    """A driver that answers at once, whoever asks."""

    def __init__(self) -> None:
        super().__init__(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
        self.taken: list[bytes] = []

    async def next(self, silo: str) -> bytes:
        return encode(OVER)

    async def held(self, silo: str, round_digest: bytes) -> bytes:
        return encode(words_pb2.HeldReply(chunks=len(self.taken)))

    async def upload(self, silo: str, chunks: AsyncIterator[bytes]) -> bytes:
        async for chunk in chunks:
            self.taken.append(chunk)
        return encode(words_pb2.UploadReceipt(chunks=len(self.taken)))


@dataclass
class World:
    """An aggregator behind a door, and a proxy that can go and come back."""

    target: str
    callers: list[str]
    """Where TCP connections to the aggregator came from."""
    answers: Answers
    folder: Path
    port: int
    proxy: Tinyproxy | None = None

    def start_proxy(self, *directives: str) -> None:
        self.proxy = Tinyproxy(self.folder, *directives, port=self.port)

    def stop_proxy(self) -> None:
        if self.proxy:
            self.proxy.stop()
        self.proxy = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def agent(self, stack: ExitStack, setting: str, reconnect_seconds: float = 20.0) -> Transport:
        proxy = chosen_proxy(setting, self.target, {})
        agent = Transport(
            *(self.target, SILO, AUTHORITY.certificate, unseen()), proxy=proxy, reconnect_seconds=reconnect_seconds
        )
        stack.callback(agent.close)
        return agent


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    answers = Answers()
    with serving(answers, ["a"], SERVER, AUTHORITY.certificate) as server, door(server) as (port, callers):
        found = World(f"127.0.0.1:{port}", callers, answers, tmp_path, free_port())
        yield found
        found.stop_proxy()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.mark.parts
def test_everything_goes_through_the_proxy(world: World, stack: ExitStack, tmp_path: Path) -> None:
    world.start_proxy()
    agent = world.agent(stack, world.url)
    assert agent.next() == OVER
    agent.perform(Upload(HELD, lambda held: iter(MESSAGES[held:])))
    content = b"keep" * 1_000_000
    (tmp_path / "offered").write_bytes(content)
    world.answers.files.offer_candidate(sha256(content).digest(), tmp_path / "offered", ["a"])
    agent.candidate(sha256(content).digest(), tmp_path / "candidate.safetensors", len(content))
    assert world.answers.taken == MESSAGES
    assert (tmp_path / "candidate.safetensors").read_bytes() == content
    assert world.callers == [OUTGOING]


@pytest.mark.parts
def test_a_proxy_that_goes_away_in_an_upload_is_waited_for(world: World, stack: ExitStack) -> None:
    world.start_proxy()
    agent = world.agent(stack, world.url)
    attempts: list[int] = []

    def chunks(held: int) -> Iterator[bytes]:
        attempts.append(0)
        for index, message in enumerate(MESSAGES[held:]):
            if index == 6 and len(attempts) == 1:
                world.stop_proxy()
                Timer(1, world.start_proxy).start()
            yield message

    agent.perform(Upload(HELD, chunks))
    assert world.answers.taken == MESSAGES
    assert len(attempts) > 1
    assert set(world.callers) == {OUTGOING}


@pytest.mark.parts
@pytest.mark.parametrize("refusing", [False, True])
def test_without_its_proxy_the_agent_fails_closed(
    refusing: bool, world: World, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment would have gRPC do."""
    for name in EXCEPTIONS:
        monkeypatch.setenv(name, "*")
    if refusing:
        world.start_proxy("ConnectPort 9")
    agent = world.agent(stack, world.url, reconnect_seconds=1)
    with pytest.raises(ConnectionFailed, match=f"{world.target}, through the proxy .*: cannot be reached"):
        agent.next()
    assert world.callers == []
    world.stop_proxy()
    world.start_proxy()
    assert world.agent(stack, world.url).next() == OVER
    assert world.callers == [OUTGOING]


@pytest.mark.parts
def test_it_goes_through_the_proxy_after_a_new_certificate_too(
    world: World, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    world.start_proxy()
    agent = world.agent(stack, world.url)
    assert agent.next() == OVER
    agent.certify(AUTHORITY.issue("a"), AUTHORITY.certificate)
    assert agent.next() == OVER
    assert world.callers == [OUTGOING, OUTGOING]


@pytest.mark.parts
@pytest.mark.parametrize("name", VARIABLES)
def test_a_command_reads_every_spelling_of_the_environment(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start_proxy()
    monkeypatch.setenv(name, world.url)
    with dialled(world.target, SILO, AUTHORITY.certificate) as agent:
        assert agent.next() == OVER
    assert world.callers == [OUTGOING]
    with dialled(world.target, SILO, AUTHORITY.certificate, "none") as agent:
        assert agent.next() == OVER
    assert world.callers == [OUTGOING, "127.0.0.1"]


@pytest.mark.parts
def test_a_command_refuses_a_proxy_of_another_kind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", f"socks5://127.0.0.1:{world.port}")
    with (
        pytest.raises(ConfigError, match="all_proxy: names a proxy of kind socks5"),
        dialled(world.target, SILO, AUTHORITY.certificate),
    ):
        pass
    assert world.callers == []
