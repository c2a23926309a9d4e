"""A dishonest aggregator starts a round in the folder of another one, to pass off its journal and words."""

import asyncio
from pathlib import Path

import pytest

from attacks.stage import ONE, Stage, assert_not_taken, spool, word_chunks
from crypto.encoding.wire import encode
from crypto.errors import BadUpload, InputError
from crypto.names import Phase
from support.driven import Driven, plan

pytestmark = pytest.mark.clause("4.11", "5.4.2")


def test_a_round_is_not_begun_in_the_folder_of_another(tmp_path: Path) -> None:
    async def rounds() -> None:
        first = Driven(plan(3, threshold=3, run=b"one run         "), tmp_path)
        await first.run()
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
        assert len(before) == 6  # three uploads, their sum, the transcript and what says that the round is over
        second = Driven(plan(3, threshold=3, run=b"another run     "), tmp_path)
        waiting = asyncio.create_task(second.driver.next(ONE))
        with pytest.raises(InputError, match="is of another round"):
            await second.driver.run(second.round, tmp_path)
        assert not waiting.done()  # nobody was offered it
        waiting.cancel()
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before

    asyncio.run(rounds())


def test_words_of_another_round_are_not_added_to_this_ones(tmp_path: Path) -> None:
    """Left in the folder, they count as held; but no root that the silo signs is theirs."""
    earlier, stage = Stage(Phase.UPLOAD, run=b"an earlier run  "), Stage(Phase.UPLOAD)
    old, new = word_chunks(earlier, ONE), word_chunks(stage, ONE)
    file = spool(stage, tmp_path).file
    file.write_bytes(b"".join(chunk.words for chunk in old))
    taker = spool(stage, tmp_path)
    assert taker.held == 4
    stage.aggregator.uploaded(ONE, taker.root())
    with pytest.raises(BadUpload, match="the signed root is not that of the uploaded chunks"):
        stage.aggregator.receive(ONE, stage.silos[ONE].message())
    with pytest.raises(BadUpload, match="chunk 0 where chunk 4 is due") as refused:
        taker.take(taker.start(), encode(new[0]))
    assert refused.value.party == ONE
    assert file.read_bytes() == b"".join(chunk.words for chunk in old)
    file.write_bytes(b"")
    assert_not_taken(spool(stage, tmp_path), [new[1]], 0, new)
