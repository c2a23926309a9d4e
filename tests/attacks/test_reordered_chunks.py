"""A dishonest silo sends its chunks in another order, or begins in the middle, to have them added to other lanes."""

from pathlib import Path

import pytest

from attacks.stage import ONE, Stage, assert_not_taken, spool, word_chunks
from crypto.names import Phase
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("6.5.1", "6.5.4")


def stage() -> Stage:
    """Of eight chunks, each as long as the others: nothing but its number says where one belongs."""
    return Stage(Phase.UPLOAD, chunk_words=1)


@pytest.mark.parametrize(("order", "at"), [((1, 0), 0), ((0, 2, 1), 1), ((0, 1, 2, 3, 4, 5, 7, 6), 6), ((7,), 0)])
def test_refused_by_its_number(order: tuple[int, ...], at: int, tmp_path: Path) -> None:
    world = stage()
    honest = word_chunks(world, ONE)
    assert len({len(chunk.words) for chunk in honest}) == 1
    assert_not_taken(spool(world, tmp_path), [honest[index] for index in order], at, honest)


def test_what_is_held_is_not_sent_again_as_something_else(tmp_path: Path) -> None:
    world = stage()
    honest, taker = word_chunks(world, ONE), spool(world, tmp_path)
    renumbered = words_pb2.WordChunk(round=world.round.digest, index=1, words=honest[2].words)
    assert_not_taken(taker, [*honest[:3], renumbered], 3, honest)
