"""Uploads and downloads through a proxy that breaks connections again and again: they go on where they were cut."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.round_driver import RoundDriver
from aggregator.rounds.spool import Spool
from crypto.encoding.wire import encode
from crypto.errors import ConnectionFailed
from crypto.identity import Authority
from silo_agent.host.metrics import SiloMetrics
from silo_agent.network.calls import Committed, Upload
from silo_agent.network.transport import Transport
from sparsilo.v1 import words_pb2
from support.cutting_proxy import Proxy
from support.driven import looping, on, serving

AUTHORITY = Authority("test", datetime.now(UTC), timedelta(days=1))
SERVER, SILO = AUTHORITY.issue("aggregator", ("127.0.0.1",)), AUTHORITY.issue("a")
ROUND, HELD = bytes(32), encode(words_pb2.HeldRequest(round=bytes(32)))
CONNECTION_BYTES = 20_000
"""More than a handshake takes, and the calls' headers."""


FRAMING = 1.004
"""TLS and HTTP/2 add 31 bytes to 16 384."""


def words(index: int, length: int) -> bytes:
    return sha256(bytes([index])).digest() * (length // 32)


class Spooling(RoundDriver):
    """A driver that spools one silo's upload of `chunks` chunks of `length` bytes, and serves as many for audit."""

    def __init__(self, folder: Path, chunks: int, length: int) -> None:
        super().__init__(AggregatorMetrics(CollectorRegistry()), lambda *_: None)
        self._file, self.chunks, self.length = folder / "a.words", chunks, length
        self.came = 0
        """Bytes of words, also of chunks that had come before."""
        self.first: list[int] = []
        """How many chunks were held when each stream began."""
        self.restart()

    def restart(self) -> None:
        self.spool = Spool(self._file, [self.length] * self.chunks, ROUND, "a")

    async def held(self, silo: str, round_digest: bytes) -> bytes:
        self.spool.start()
        return encode(words_pb2.HeldReply(chunks=self.spool.held))

    async def upload(self, silo: str, chunks: AsyncIterator[bytes]) -> bytes:
        stream = self.spool.start()
        self.first.append(self.spool.held)
        async for chunk in chunks:
            self.came += self.length
            self.spool.take(stream, chunk)
        self.spool.root()
        return encode(words_pb2.UploadReceipt(chunks=self.spool.held))

    async def committed(self, silo: str, round_digest: bytes, index: int, offset: int = 0) -> AsyncIterator[bytes]:
        for at in range(offset, self.chunks):
            yield encode(words_pb2.CommittedChunk(words=words(at, self.length)))


@dataclass
class Line:
    """From an agent through a proxy to the driver."""

    driver: Spooling
    proxy: Proxy
    agent: Transport
    masked: list[int]
    """Which chunks the silo was asked to mask, again and again."""

    def upload(self) -> None:
        def chunks(held: int) -> Iterator[bytes]:
            for index in range(held, self.driver.chunks):
                self.masked.append(index)
                yield encode(words_pb2.WordChunk(round=ROUND, index=index, words=words(index, self.driver.length)))

        self.agent.perform(Upload(HELD, chunks))
        assert self.driver.spool.file.read_bytes() == b"".join(
            words(index, self.driver.length) for index in range(self.driver.chunks)
        )


@contextmanager
def through(folder: Path, chunks: int, length: int, **proxy: int) -> Iterator[Line]:
    driver = Spooling(folder, chunks, length)
    with looping() as loop, serving(driver, ["a"], SERVER, AUTHORITY.certificate) as port:
        cutting = Proxy(port, **proxy)
        address = f"127.0.0.1:{on(loop, cutting.start())}"
        agent = Transport(address, SILO, AUTHORITY.certificate, SiloMetrics(CollectorRegistry()), reconnect_seconds=2)
        yield Line(driver, cutting, agent, [])
        agent.close()
        loop.call_soon_threadsafe(cutting.cut)


@pytest.mark.clause("6.5.4")
@pytest.mark.parametrize(
    ("chunks", "length", "proxy"),
    [
        (12, 1 << 20, {"most_up": 2_500_000}),
        (110, 1 << 20, {"most_up": 50 * (1 << 20) + CONNECTION_BYTES}),  # about 50 messages a connection
        (24, 1 << 17, {"most_up": 700_000, "rate": 1_000_000}),  # 8 Mbit/s
    ],
)
def test_what_is_sent_again_after_a_cut_is_at_most_a_chunk(
    chunks: int, length: int, proxy: dict[str, int], tmp_path: Path
) -> None:
    with through(tmp_path, chunks, length, **proxy) as path:
        path.upload()
        cuts = path.proxy.connections - 1
        assert cuts >= 2
        assert path.driver.came == chunks * length, "no chunk came whole twice"
        resent = path.proxy.passed["up"] - FRAMING * chunks * length
        assert resent <= cuts * (length + CONNECTION_BYTES) + CONNECTION_BYTES
        assert all(held > before for before, held in pairwise(path.driver.first))


def test_a_restarted_aggregator_goes_on_with_what_is_on_its_disk(tmp_path: Path) -> None:
    with through(tmp_path, 9, 100_000, most_up=450_000) as path:
        held = path.driver.held

        async def restarted(silo: str, round_digest: bytes) -> bytes:
            path.driver.restart()
            return await held(silo, round_digest)

        path.driver.held = restarted  # type: ignore[method-assign]
        path.upload()
        assert path.driver.first[1:]
        assert path.driver.came <= 900_000 + 100_000 * len(path.driver.first)


def test_a_proxy_that_lets_no_chunk_through_is_given_up(tmp_path: Path) -> None:
    with through(tmp_path, 2, 1 << 20, most_up=1 << 19) as path, pytest.raises(ConnectionFailed):
        path.upload()


@pytest.mark.clause("7.16")
def test_a_chunk_that_is_audited_goes_on_at_the_piece(tmp_path: Path) -> None:
    chunks, length = 12, 1 << 20
    with through(tmp_path, chunks, length, most_down=2_500_000) as path:
        taken: list[bytes] = []
        path.agent.perform(
            Committed(lambda offset: encode(words_pb2.CommittedRequest(round=ROUND, offset=offset)), taken.extend)
        )
        assert taken == [encode(words_pb2.CommittedChunk(words=words(at, length))) for at in range(chunks)]
        cuts = path.proxy.connections - 1
        assert cuts >= 3
        resent = path.proxy.passed["down"] - FRAMING * chunks * length
        assert resent <= cuts * (length + CONNECTION_BYTES) + CONNECTION_BYTES


@pytest.mark.clause("7.16")
def test_a_download_goes_on_where_it_was_cut_also_after_a_restart_of_the_agent(tmp_path: Path) -> None:
    content = bytes(range(256)) * (9 << 12)  # nine pieces
    (tmp_path / "served").write_bytes(content)
    digest, fetched = sha256(content).digest(), tmp_path / "candidate.safetensors"
    with through(tmp_path, 1, 32, most_down=3 << 20) as path:
        path.driver.files.offer_candidate(digest, tmp_path / "served", ["a"])
        path.proxy.closed = True
        with pytest.raises(ConnectionFailed):
            path.agent.candidate(digest, fetched, len(content))
        fetched.with_suffix(".part").write_bytes(content[: 5 << 20])  # as the process before left it
        path.proxy.closed = False
        path.agent.candidate(digest, fetched, len(content))
        assert fetched.read_bytes() == content
        assert not fetched.with_suffix(".part").exists()
        assert path.proxy.passed["down"] < (4 << 20) + path.proxy.connections * ((1 << 20) + CONNECTION_BYTES)
