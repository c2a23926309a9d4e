"""Offered files arrive whole, under the kind and digest that they were offered by and no other."""

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.rounds import offered_files
from aggregator.rounds.offered_files import OfferedFiles
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import ProtocolError
from silo_agent.opened_sums.committed_words import SUM_FILE
from sparsilo.v1 import words_pb2
from support.driven import Driven, plan


async def served(files: OfferedFiles, kind: str, digest: bytes, silo: str = "silo-000", offset: int = 0) -> list[bytes]:
    pieces = files.pieces(silo, kind, digest, offset)
    return [decode(words_pb2.FilePiece, piece, MESSAGE_LIMIT).data async for piece in pieces]


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 20])
def test_candidates_are_served_by_digest(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offered_files, "PIECE_BYTES", 7)
    content = bytes(range(size))
    (tmp_path / "candidate").write_bytes(content)

    async def work() -> None:
        files, digest = OfferedFiles(), sha256(content).digest()
        files.offer_candidate(digest, tmp_path / "candidate", ["silo-000"])
        pieces = await served(files, "candidate", digest)
        assert b"".join(pieces) == content
        assert all(0 < len(piece) <= 7 for piece in pieces)
        for offset in (1, size, size + 9):
            assert b"".join(await served(files, "candidate", digest, offset=offset)) == content[offset:]
        others = [("candidate", b""), ("candidate", sha256(b"another").digest()), ("", digest)]
        for kind, unknown in (*others, ("transcript", digest), ("opened_sum", digest)):
            with pytest.raises(ProtocolError, match="no such file"):
                await served(files, kind, unknown)
        with pytest.raises(ProtocolError, match="no such file"):
            await served(files, "candidate", digest, "silo-001")
        files.withdraw()
        with pytest.raises(ProtocolError, match="no such file"):
            await served(files, "candidate", digest)

    asyncio.run(work())


def test_what_a_round_opened_is_served_by_its_digest_once_it_is_offered(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(3), tmp_path)
        files, digest = driven.driver.files, driven.round.digest
        closed = await driven.run()
        with pytest.raises(ProtocolError, match="no such file"):
            await served(files, "opened_sum", digest)
        files.offer_opened(closed)
        assert b"".join(await served(files, "opened_sum", digest)) == (tmp_path / SUM_FILE).read_bytes()
        assert b"".join(await served(files, "transcript", digest)) == encode(driven.silos["silo-000"].transcript)
        with pytest.raises(ProtocolError, match="no such file"):
            await served(files, "candidate", digest)
        for kind in ("opened_sum", "transcript"):
            with pytest.raises(ProtocolError, match="no such file"):
                await served(files, kind, digest, "silo-003")

    asyncio.run(asyncio.wait_for(work(), 20))
