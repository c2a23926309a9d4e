"""A closed round leaves what `silo-agent verify` reads."""

import asyncio
from pathlib import Path

from crypto.encoding.wire import MESSAGE_LIMIT, decode
from crypto.names import Phase
from sparsilo.v1 import round_pb2
from support.driven import Driven, plan

A, B, C, D = (f"silo-{index:03d}" for index in range(4))


def test_a_saved_transcript_is_that_of_the_round(tmp_path: Path) -> None:
    async def work() -> None:
        driven = Driven(plan(4, threshold=3), tmp_path)
        await driven.driver.gone(D)
        closed = await driven.run({D: Phase.SHARES})
        closed.save_transcript(tmp_path / "saved")
        saved = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
        assert decode(round_pb2.Transcript, saved.pop("transcript"), MESSAGE_LIMIT) == closed.session.transcript
        assert saved == {f"{name}.words": (tmp_path / f"{name}.words").read_bytes() for name in (A, B, C, "opened_sum")}

    asyncio.run(asyncio.wait_for(work(), 20))
