"""A dishonest silo asks for chunks that it was not drawn for, to see the sum and the others' masked words."""

import asyncio
from pathlib import Path

import pytest

from attacks.stage import SILOS, ZERO, Stage, plain
from crypto.errors import UnexpectedMessage
from crypto.names import Phase
from support.driven import Driven, listed, plan

pytestmark = pytest.mark.clause("5.9.1")


async def ask(folder: Path) -> None:
    world = Driven(plan(5, threshold=3), folder)
    running = asyncio.create_task(world.driver.run(world.round, folder))
    session, digest = world.silos[ZERO], world.round.digest
    before = asyncio.create_task(world.take_part(ZERO, until=Phase.AUDIT))
    with pytest.raises(UnexpectedMessage, match=f"{ZERO}: is no auditor of chunk 0"):
        await listed(world.driver.committed(ZERO, digest, 0))
    await asyncio.gather(before, *(world.take_part(silo, until=Phase.AUDIT) for silo in SILOS[1:]))
    chunks = range(len(session.round.layout.chunks))
    for index in chunks:
        if index in session.assigned:
            assert len(await listed(world.driver.committed(ZERO, digest, index))) == 6
            continue
        with pytest.raises(UnexpectedMessage) as refused:
            await anext(world.driver.committed(ZERO, digest, index))
        assert refused.value.party == ZERO
    for other_round, index in ((bytes(32), session.assigned[0] if session.assigned else 0), (digest, len(chunks))):
        with pytest.raises(UnexpectedMessage):
            await anext(world.driver.committed(ZERO, other_round, index))
    with pytest.raises(UnexpectedMessage):
        await anext(world.driver.committed("silo-999", digest, 0))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_the_driver_gives_it_nothing(tmp_path: Path) -> None:
    asyncio.run(ask(tmp_path))


def test_an_auditor_sees_the_sum_of_its_chunks() -> None:
    """Which is what asking for every chunk would come to: the keep counts."""
    stage = Stage(Phase.AUDIT)
    counts = {name: sums.tolist() for name, sums in stage.open().items()}
    assert counts == plain(stage, *SILOS)
