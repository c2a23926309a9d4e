"""A result is listed and served to the silos of its roster, by SHA-256, and to nobody else."""

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.rounds.offered_files import OfferedFiles
from crypto.encoding.wire import MESSAGE_LIMIT, decode
from crypto.errors import ProtocolError
from silo_agent.results.manifest import MANIFEST_FILE, Manifest
from sparsilo.v1 import words_pb2
from support.plans import plan

SILOS = 3


def published(folder: Path, content: bytes, silos: int = SILOS) -> bytes:
    """A result in `folder` with one file; the manifest's digest."""
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_bytes(content)
    manifest = Manifest.of_folder(plan(silos).digest, folder)
    (folder / MANIFEST_FILE).write_bytes(manifest.encoded)
    return manifest.digest


def served(files: OfferedFiles, silo: str, digest: bytes) -> bytes:
    async def work() -> bytes:
        pieces = [piece async for piece in files.pieces(silo, "result", digest)]
        return b"".join(decode(words_pb2.FilePiece, piece, MESSAGE_LIMIT).data for piece in pieces)

    return asyncio.run(work())


def listed(files: OfferedFiles, silo: str) -> list[tuple[bytes, bytes]]:
    reply = decode(words_pb2.ResultsReply, files.results.listed(silo), MESSAGE_LIMIT)
    return [(result.plan, result.manifest) for result in reply.results]


@pytest.mark.clause("7.30")
def test_to_the_roster_and_to_nobody_else(tmp_path: Path) -> None:
    files, content = OfferedFiles(), b"a report"
    manifest = published(tmp_path, content)
    files.results.publish(plan(SILOS), tmp_path)
    for silo in plan(SILOS).silos:
        assert listed(files, silo) == [(plan(SILOS).digest, manifest)]
        assert served(files, silo, sha256(content).digest()) == content
        assert served(files, silo, manifest) == (tmp_path / MANIFEST_FILE).read_bytes()
    assert listed(files, "silo-999") == []
    for silo, digest in (("silo-999", manifest), ("silo-000", sha256(b"another").digest()), ("silo-000", b"")):
        with pytest.raises(ProtocolError, match="no such file is offered"):
            served(files, silo, digest)


def test_the_end_of_a_run_withdraws_none(tmp_path: Path) -> None:
    files = OfferedFiles()
    manifest = published(tmp_path, b"a report")
    files.results.publish(plan(SILOS), tmp_path)
    files.withdraw()
    assert served(files, "silo-000", manifest)


def test_a_file_of_two_results_is_served_to_both_rosters(tmp_path: Path) -> None:
    files, digest = OfferedFiles(), sha256(b"the same").digest()
    for silos, folder in ((SILOS, tmp_path / "a"), (SILOS + 1, tmp_path / "b")):
        published(folder, b"the same", silos)
        files.results.publish(plan(silos), folder)
    assert [len(listed(files, silo)) for silo in ("silo-000", "silo-003")] == [2, 1]
    for silo in ("silo-000", "silo-003"):
        assert served(files, silo, digest) == b"the same"


def test_a_changed_result_takes_the_place_of_what_it_was(tmp_path: Path) -> None:
    files = OfferedFiles()
    before = published(tmp_path, b"without perplexities")
    files.results.publish(plan(SILOS), tmp_path)
    after = published(tmp_path, b"with them")
    files.results.publish(plan(SILOS), tmp_path)
    assert listed(files, "silo-000") == [(plan(SILOS).digest, after)]
    with pytest.raises(ProtocolError):
        served(files, "silo-000", before)


def test_a_result_that_is_gone_from_the_disk_is_not_served(tmp_path: Path) -> None:
    files = OfferedFiles()
    published(tmp_path, b"a report")
    files.results.publish(plan(SILOS), tmp_path)
    (tmp_path / "report.json").unlink()
    with pytest.raises(ProtocolError, match="no such file is offered"):
        served(files, "silo-000", sha256(b"a report").digest())


def test_a_result_that_was_pruned_is_not_listed(tmp_path: Path) -> None:
    files = OfferedFiles()
    published(tmp_path, b"a report")
    files.results.publish(plan(SILOS), tmp_path)
    assert listed(files, "silo-000")
    (tmp_path / MANIFEST_FILE).unlink()
    assert not listed(files, "silo-000")
