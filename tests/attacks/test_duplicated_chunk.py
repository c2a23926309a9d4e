"""A dishonest silo sends a chunk twice, or one more than there are, to be counted twice."""

from pathlib import Path

import pytest

from attacks.stage import ONE, Stage, assert_not_taken, spool, word_chunks
from crypto.encoding.wire import encode
from crypto.errors import BadUpload
from crypto.names import Phase
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("6.5.1", "6.5.4")


@pytest.mark.parametrize("twice", [0, 1, 6, 7])
def test_refused_by_its_number(twice: int, tmp_path: Path) -> None:
    """Eight chunks, each as long as the others."""
    stage = Stage(Phase.UPLOAD, chunk_words=1)
    honest = word_chunks(stage, ONE)
    assert_not_taken(spool(stage, tmp_path), [*honest[: twice + 1], honest[twice]], twice + 1, honest)


def test_one_more_than_there_are(tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    honest, taker = word_chunks(stage, ONE), spool(stage, tmp_path)
    more = words_pb2.WordChunk(round=stage.round.digest, index=4, words=honest[3].words)
    assert_not_taken(taker, [*honest, more], 4, honest)


def test_an_older_stream_of_the_same_silo_adds_nothing_to_a_newer(tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    honest, taker = word_chunks(stage, ONE), spool(stage, tmp_path)
    older, newer = taker.start(), taker.start()
    taker.take(newer, encode(honest[0]))
    with pytest.raises(BadUpload, match=f"{ONE}: a newer stream has begun"):
        taker.take(older, encode(honest[1]))
    assert_not_taken(taker, [*honest[:2], honest[1]], 2, honest)
