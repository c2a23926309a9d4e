"""A closed round is a file that a restarted aggregator takes up, and leaves what `silo-agent verify` reads."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.rounds.closed_round import CLOSED_FILE, ClosedRound
from aggregator.rounds.round_driver import RoundDriver
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import DiskFailed, InputError
from crypto.names import Backend, Phase
from crypto.secagg.round import Round
from silo_agent.opened_sums.committed_words import SUM_FILE, TRANSCRIPT_FILE
from sparsilo.v1 import round_pb2
from support.driven import Driven, plan

A, B, C, D = (f"silo-{index:03d}" for index in range(4))


def run(folder: Path, backend: Backend = Backend.DOUBLE_MASKING) -> tuple[Driven, ClosedRound]:
    """A round that D falls silent in."""

    async def work() -> tuple[Driven, ClosedRound]:
        driven = Driven(plan(4, threshold=3, backend=backend), folder)
        await driven.driver.gone(D)
        return driven, await driven.run({D: Phase.UPLOAD})

    return asyncio.run(asyncio.wait_for(work(), 100))


def test_a_saved_transcript_is_that_of_the_round(tmp_path: Path) -> None:
    driven, closed = run(tmp_path)
    closed.save_transcript(tmp_path / "saved")
    saved = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    assert decode(round_pb2.Transcript, saved.pop("transcript"), MESSAGE_LIMIT) == driven.session.transcript
    assert saved == {f"{name}.words": (tmp_path / f"{name}.words").read_bytes() for name in (A, B, C, "opened_sum")}


@pytest.mark.parametrize("backend", list(Backend))
def test_a_restarted_aggregator_takes_it_up_without_journal_and_uploads(backend: Backend, tmp_path: Path) -> None:
    driven, closed = run(tmp_path, backend)
    for upload in closed.uploads().values():
        upload.unlink()
    assert not list(tmp_path.glob("journal*")), "of a round that is over there is no journal"

    async def restarted() -> None:
        driver = RoundDriver(driven.driver.metrics, lambda *_: None)
        assert await driver.run(driven.round, tmp_path) == replace(closed, dropped={D: Phase.UPLOAD})
        last = {silo: (message, answer) for silo, message, answer in driven.said}
        for silo in (A, B, C):  # whose answer may have been lost with the first aggregator
            message, answer = last[silo]
            assert await driver.advance(silo, message) == answer

    asyncio.run(asyncio.wait_for(restarted(), 100))
    assert (tmp_path / TRANSCRIPT_FILE).read_bytes() == encode(driven.session.transcript)


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("file", [CLOSED_FILE, SUM_FILE])
@pytest.mark.parametrize(
    "damage", [flipped(0), flipped(30), flipped(-2), lambda content: content[:-1], lambda _: b""], ids=range(5)
)
def test_a_damaged_file_is_named_and_no_silo(file: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    driven, _ = run(tmp_path)
    path = tmp_path / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DiskFailed, match=f"^{path}: is not what was written there") as failed:
        ClosedRound.read(driven.round, tmp_path)
    assert "silo-0" not in str(failed.value).replace(f"{tmp_path}", "")


def test_a_sum_that_is_lost_is_named(tmp_path: Path) -> None:
    driven, _ = run(tmp_path)
    (tmp_path / SUM_FILE).unlink()
    with pytest.raises(DiskFailed, match=SUM_FILE):
        ClosedRound.read(driven.round, tmp_path)


def test_another_rounds_file_and_a_later_versions_are_refused(tmp_path: Path) -> None:
    driven, closed = run(tmp_path)
    assert ClosedRound.read(driven.round, tmp_path) == closed
    with pytest.raises(InputError, match="is of another round"):
        ClosedRound.read(Round(plan(4, run=b"another run of 4"), 0), tmp_path)
    file = tmp_path / CLOSED_FILE
    file.write_bytes(file.read_bytes().replace(b"round 1 ", b"round 2 ", 1))
    with pytest.raises(InputError, match="is of version 2, and this program knows version 1"):
        ClosedRound.read(driven.round, tmp_path)


def test_an_upload_that_the_disk_changed_is_left_out_of_the_transcript(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, closed = run(tmp_path)
    upload = tmp_path / f"{B}.words"
    upload.write_bytes(flipped(20)(upload.read_bytes()))
    closed.save_transcript(tmp_path / "saved")
    assert {file.stem for file in (tmp_path / "saved").glob("*.words")} == {A, C, "opened_sum"}
    assert f"{upload}: left out of the transcript: the disk lost or changed it" in caplog.text
