"""Connections that break: what is repeated is harmless, and nobody is given up too early."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Timer

import pytest
import torch
from prometheus_client import CollectorRegistry
from safetensors.torch import load_file

from aggregator.local_agents import LocalAgents
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.round_driver import RoundDriver
from aggregator.rounds.spool import Spool
from aggregator.runs import planning
from crypto.encoding.wire import encode
from crypto.errors import (
    BadAudit,
    BadUpload,
    ConnectionFailed,
    ProtocolError,
    RoundAborted,
    UnexpectedMessage,
)
from crypto.identity import Authority
from crypto.names import Phase
from silo_agent.config import AgentConfig
from silo_agent.host.metrics import SiloMetrics
from silo_agent.network import transport
from silo_agent.network.calls import Advance, Committed, Upload
from silo_agent.network.transport import Transport
from sparsilo.v1 import round_pb2, words_pb2
from support.commands import local, prune
from support.cutting_proxy import Proxy
from support.driven import looping, on, serving
from support.models import tiny_llama, write_text

SHAPE = ("--samples", 4, "--sequence-length", 32)


def test_a_silo_whose_connection_is_cut_twice_survives_and_the_counts_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once in the middle of the upload, once while it waits for a phase to close."""
    model = tiny_llama(tmp_path / "dense")
    files = [write_text(tmp_path / f"{name}.txt", 900, seed=at) for at, name in enumerate(["a", "b", "c"])]
    proxies: list[Proxy] = []
    streams: list[int] = []
    taken: list[str] = []
    waits: list[bytes] = []
    start, take, advance = LocalAgents.start, Spool.take, RoundDriver.advance

    async def start_behind_proxy(self: LocalAgents, config: AgentConfig, authority: Authority) -> None:
        if config.silo == "b":
            proxies.append(Proxy(int(config.aggregator.partition(":")[2])))
            config = replace(config, aggregator=f"127.0.0.1:{await proxies[0].start()}")
        await start(self, config, authority)

    def take_and_cut(self: Spool, stream: int, message: bytes) -> None:
        take(self, stream, message)
        taken.append(self._silo)
        if self._silo == "b" and stream not in streams:
            streams.append(stream)
        if self._silo == "b" and self.held == len(self._lengths) // 2:
            proxies[0].cut()

    async def advance_after_cut(self: RoundDriver, silo: str, data: bytes) -> bytes:
        assert self._round is not None
        if self._round.session.phase is Phase.CONSISTENCY:
            if silo == "b":
                waits.append(data)
            if silo == "a":  # the phase waits for this one, until the other has lost its connection and called anew
                await until(lambda: bool(waits))
                proxies[0].cut()
                await until(lambda: len(waits) > 1)
        return await advance(self, silo, data)

    monkeypatch.setattr(planning, "CHUNK_WORDS", 8)
    monkeypatch.setattr(LocalAgents, "start", start_behind_proxy)
    monkeypatch.setattr(Spool, "take", take_and_cut)
    monkeypatch.setattr(RoundDriver, "advance", advance_after_cut)
    ran = local(model, files, tmp_path / "out", capsys, *SHAPE, "--save-counts")
    assert ran.code == 0, ran.err
    assert ran.data["survivors"] == ["a", "b", "c"]
    assert ran.data["dropped"] == {}
    assert streams == [2, 4], "the upload was cut and went on; both were announced by Held"
    assert taken.count("b") == taken.count("a"), "no chunk was taken twice"
    assert len(waits) == 2
    assert waits[0] == waits[1], "the same bytes"
    counts = load_file(tmp_path / "out" / "keep_counts.safetensors")
    totals = {name: torch.zeros_like(count) for name, count in counts.items()}
    for file in files:
        assert prune(model, file, tmp_path / f"{file.stem}.safetensors", capsys, *SHAPE).code == 0
        for name, mask in load_file(tmp_path / f"{file.stem}.safetensors").items():
            totals[name] += mask
    assert all(torch.equal(counts[name], totals[name]) for name in counts)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():
            await asyncio.sleep(0.01)


# The transport alone, with a servicer that answers at once.

AUTHORITY = Authority("test", datetime.now(UTC), timedelta(days=1))
SERVER = AUTHORITY.issue("aggregator", ("127.0.0.1",))
SILO = AUTHORITY.issue("a")
HELD = encode(words_pb2.HeldRequest())


class Answers(RoundDriver):
    """A driver that answers at once, whoever asks."""

    def __init__(self) -> None:
        super().__init__(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
        self.uploads: list[list[bytes]] = []
        """Each stream's messages, as far as they came."""
        self.forgets = False
        """Whether it holds nothing of what came."""
        self.cut_after: list[int] = []
        """After how many messages each stream, up or down, is cut."""
        self.cut: Callable[[], object] = lambda: None

    async def next(self, silo: str) -> bytes:
        return encode(round_pb2.Offer(over=round_pb2.Over()))

    async def held(self, silo: str, round_digest: bytes) -> bytes:
        return encode(words_pb2.HeldReply(chunks=0 if self.forgets else sum(map(len, self.uploads))))

    async def upload(self, silo: str, chunks: AsyncIterator[bytes]) -> bytes:
        taken: list[bytes] = []
        self.uploads.append(taken)
        async for chunk in chunks:
            taken.append(chunk)
            if self.cut_after and len(taken) == self.cut_after[0]:
                del self.cut_after[0]
                self.cut()
        return encode(words_pb2.UploadReceipt(chunks=len(taken)))

    async def advance(self, silo: str, data: bytes) -> bytes:
        raise RoundAborted("/round: No space left on device", hint="is there room?")

    async def committed(self, silo: str, round_digest: bytes, index: int, offset: int = 0) -> AsyncIterator[bytes]:
        if silo != "a" or round_digest != b"r" * 32:
            raise UnexpectedMessage(f"is no auditor of chunk {index}", party=silo)
        for sent in range(offset, 5):
            if self.cut_after and sent == self.cut_after[0]:
                del self.cut_after[0]
                self.cut()
                time.sleep(0.2)  # the connection breaks before the next one is sent
            yield encode(words_pb2.CommittedChunk(silo=f"{index}", words=bytes([sent]) * 100_000))


@dataclass
class Behind:
    """An agent's transport behind a proxy."""

    agent: Transport
    proxy: Proxy
    answers: Answers


@pytest.fixture
def behind() -> Iterator[Behind]:
    answers = Answers()
    with looping() as loop, serving(answers, ["a"], SERVER, AUTHORITY.certificate) as port:
        proxy = Proxy(port)
        answers.cut = lambda: loop.call_soon_threadsafe(proxy.cut)
        agent = Transport(
            f"127.0.0.1:{on(loop, proxy.start())}",
            SILO,
            AUTHORITY.certificate,
            SiloMetrics(CollectorRegistry()),
        )
        yield Behind(agent, proxy, answers)
        agent.close()
        answers.cut()


def test_a_load_balancer_that_has_nobody_behind_it_yet(behind: Behind) -> None:
    """It takes connections and closes them before a handshake: nobody's identity is at fault."""
    behind.proxy.closed = True
    opening = Timer(0.7, lambda: setattr(behind.proxy, "closed", False))
    opening.start()
    assert behind.agent.next() == round_pb2.Offer(over=round_pb2.Over())
    opening.join()


def test_a_connection_that_does_not_come_back(behind: Behind) -> None:
    behind.agent._reconnect_seconds = 0.8
    assert behind.agent.next() == round_pb2.Offer(over=round_pb2.Over())
    behind.proxy.closed = True
    behind.answers.cut()
    start = time.monotonic()
    with pytest.raises(ConnectionFailed):
        behind.agent.next()
    assert 0.8 <= time.monotonic() - start < 50


def test_an_upload_that_is_cut_again_long_after_the_first_time(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a connection has been lost counts from when it was lost the last time."""
    clock = [0.0]
    monkeypatch.setattr(transport, "monotonic", lambda: clock[0])
    monkeypatch.setattr(transport, "POLL_SECONDS", 0.5)
    messages = [encode(words_pb2.WordChunk(index=index, words=bytes(8))) for index in range(12)]

    def slowly(held: int) -> Iterator[bytes]:
        for message in messages[held:]:
            time.sleep(0.15)  # of the network, which must not have taken the rest when it breaks
            clock[0] += 10
            yield message

    behind.answers.cut_after = [1, 9]
    behind.agent.perform(Upload(HELD, slowly))
    first, second, third = behind.answers.uploads
    assert (len(first), len(second)) == (1, 9)
    assert first + second + third == messages


def test_an_upload_that_never_gets_further_is_given_up(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """An aggregator that takes chunks and forgets them cannot keep a silo sending."""
    clock = [0.0]
    monkeypatch.setattr(transport, "monotonic", lambda: clock[0])

    def chunks(held: int) -> Iterator[bytes]:
        assert held == 0
        for _ in range(4):
            clock[0] += 10
            yield encode(words_pb2.WordChunk(words=bytes(8)))

    behind.answers.forgets, behind.answers.cut_after = True, [1] * 100
    with pytest.raises(ConnectionFailed, match="cannot be reached"):
        behind.agent.perform(Upload(HELD, chunks))
    assert 60 <= clock[0] < 300


def asked(index: int, round_: bytes = b"r" * 32) -> Callable[[int], bytes]:
    return lambda offset: encode(words_pb2.CommittedRequest(round=round_, index=index, offset=offset))


@pytest.mark.parametrize("cut_after", [[], [3], [1, 4]])
def test_a_chunks_committed_words_go_on_where_they_were_cut(cut_after: list[int], behind: Behind) -> None:
    behind.answers.cut_after = list(cut_after)
    taken: list[bytes] = []
    assert behind.agent.perform(Committed(asked(7), taken.extend)) is None
    assert taken == [encode(words_pb2.CommittedChunk(silo="7", words=bytes([n]) * 100_000)) for n in range(5)]
    assert behind.answers.cut_after == []


def test_what_an_auditor_finds_wrong_is_its_own_error_and_not_tried_again(behind: Behind) -> None:
    taken = []

    def take(pieces: Iterable[bytes]) -> None:
        taken.append(next(iter(pieces)))
        raise BadAudit("chunk 7 is not the sum", party="aggregator")

    with pytest.raises(BadAudit, match="chunk 7 is not the sum"):
        behind.agent.perform(Committed(asked(7), take))
    assert len(taken) == 1


def test_who_is_no_auditor_is_refused(behind: Behind) -> None:
    with pytest.raises(ProtocolError, match="unexpected_message: a: is no auditor of chunk 3"):
        behind.agent.perform(Committed(asked(3, bytes(32)), list))
    with pytest.raises(ProtocolError, match="malformed_message"):
        behind.agent.perform(Committed(lambda _: asked(3)(0) + b"x", list))


def test_a_disk_that_is_full_over_there_is_no_fault_of_the_silo_or_the_connection(behind: Behind) -> None:
    with pytest.raises(RoundAborted, match="round_aborted: /round: No space left on device"):
        behind.agent.perform(Advance(b"message"))


@pytest.mark.clause("6.5.3")
def test_what_a_silo_finds_wrong_in_its_own_upload_is_its_own_error(behind: Behind) -> None:
    def changed(_: int) -> Iterator[bytes]:
        yield encode(words_pb2.WordChunk(words=bytes(8)))
        raise BadUpload("chunk 1 is not what was sent before", party="a")

    with pytest.raises(BadUpload, match="chunk 1 is not what was sent before"):
        behind.agent.perform(Upload(HELD, changed))


@pytest.mark.clause("7.5")
@pytest.mark.parametrize("altered", [False, True])
def test_a_candidate_has_the_digest_that_was_asked_for(altered: bool, behind: Behind, tmp_path: Path) -> None:
    content = b"keep" * 100_000
    digest, served, fetched = sha256(content).digest(), tmp_path / "served", tmp_path / "fetched"
    fetched.mkdir()
    served.write_bytes(b"Keep" + content[4:] if altered else content)
    behind.answers.files.offer_candidate(digest, served, ["a"])
    if altered:
        with pytest.raises(ProtocolError, match=r"^aggregator: the candidate is not the one"):
            behind.agent.candidate(digest, fetched / "file.safetensors", len(content))
    else:
        behind.agent.candidate(digest, fetched / "file.safetensors", len(content))
        assert (fetched / "file.safetensors").read_bytes() == content
    assert [file.name for file in fetched.iterdir()] == ([] if altered else ["file.safetensors"])
