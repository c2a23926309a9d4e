"""A dishonest silo packs its lanes in another width than the roster's size gives."""

from pathlib import Path

import numpy as np
import pytest

from attacks.stage import ONE, Stage, assert_not_taken, publish, spool, word_chunks
from crypto.encoding.lanes import pack
from crypto.errors import CorruptSum
from crypto.names import Phase
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("2.4.1", "2.4.3", "2.4.5", "6.5.1", "6.7.3")


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_another_number_of_words_is_refused(width: int, tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    honest = word_chunks(stage, ONE)
    words = np.append(np.uint64(1), pack(stage.lanes[ONE]["votes blocks.0.weight"], width))
    lie = words_pb2.WordChunk(round=stage.round.digest, index=0, words=words.tobytes())
    assert len(lie.words) != len(honest[0].words)
    assert_not_taken(spool(stage, tmp_path), [lie], 0, honest)


def test_filled_up_to_the_same_number_the_sum_is_corrupt(tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    packed = stage.packed(ONE)
    narrow = pack(stage.lanes[ONE]["votes blocks.0.weight"], 2)
    packed[0][1:] = 0
    packed[0][1 : 1 + len(narrow)] = narrow
    stage.upload_words(ONE, packed)
    stage.go_on(Phase.DONE)
    with pytest.raises(CorruptSum, match=r"kept by count|a sum is"):
        publish(stage, tmp_path)
    assert list(tmp_path.iterdir()) == []
