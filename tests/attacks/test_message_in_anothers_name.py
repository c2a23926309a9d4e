"""A dishonest silo sends what another silo said, over its own connection, to be taken for that silo or in its place."""

import asyncio
from pathlib import Path

import pytest

from attacks.stage import FOUR, THREE
from crypto.errors import BadSignature
from silo_agent.network.calls import Advance
from support.driven import Driven, plan

pytestmark = pytest.mark.clause("3.1.2", "5.1.3", "7.1")


def test_who_speaks_is_who_called(tmp_path: Path) -> None:
    async def attack() -> None:
        world = Driven(plan(5, threshold=3), tmp_path)
        running = asyncio.create_task(world.driver.run(world.round, tmp_path))
        await world.driver.next(FOUR)
        theirs = world.call(THREE)
        assert isinstance(theirs, Advance)
        with pytest.raises(BadSignature) as refused:
            await world.driver.advance(FOUR, theirs.message)
        assert refused.value.party == FOUR
        await asyncio.gather(*(world.take_part(silo) for silo in world.silos))
        closed = await running  # an honest round, as if nothing had been said
        assert closed.survivors == tuple(world.silos)

    asyncio.run(attack())
