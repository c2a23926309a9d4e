"""A dishonest silo sends a chunk that is too short, or too long, so that the sum ends or shifts where it likes."""

from pathlib import Path

import pytest

from attacks.stage import ONE, Stage, assert_not_taken, spool, word_chunks
from crypto.encoding.wire import encode
from crypto.errors import BadUpload
from crypto.names import Phase
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("5.4.2", "6.5.1")


@pytest.mark.parametrize("length", [0, 8, -8, -1, None])
def test_refused_by_its_length(length: int | None, tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    honest = word_chunks(stage, ONE)
    lie = words_pb2.WordChunk.FromString(honest[2].SerializeToString())
    lie.words = lie.words + bytes(8) if length is None else lie.words[:length]
    taker = spool(stage, tmp_path)
    assert_not_taken(taker, [*honest[:2], lie], 2, honest)


def test_an_upload_that_ends_early_has_no_root(tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    honest, taker = word_chunks(stage, ONE), spool(stage, tmp_path)
    stream = taker.start()
    for chunk in honest[:-1]:
        taker.take(stream, encode(chunk))
    with pytest.raises(BadUpload, match="3 of 4 chunks arrived") as refused:
        taker.root()
    assert refused.value.party == ONE
    with pytest.raises(BadUpload, match="signed root"):
        stage.aggregator.receive(ONE, stage.silos[ONE].message())
