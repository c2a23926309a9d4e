"""A dishonest silo puts more into a lane than fits, so that it carries into its neighbour's count."""

from pathlib import Path

import numpy as np
import pytest

from attacks.stage import ONE, SILOS, Stage, difference, plain, publish
from crypto.encoding.layout import pack_chunk
from crypto.errors import CorruptSum, PlanError
from crypto.names import Phase

pytestmark = pytest.mark.clause("6.1.2", "6.7.3")

WIDTH = 3  # bits a vote, with five silos


def test_the_silos_own_code_refuses_before_it_masks() -> None:
    stage = Stage(Phase.UPLOAD)
    votes = stage.lanes[ONE]["votes blocks.0.weight"].copy()
    votes[0] = 1 << WIDTH
    with pytest.raises(PlanError, match="a value does not fit a lane of 3 bits"):
        pack_chunk(stage.layout.chunks[0], votes)


@pytest.mark.parametrize(("added", "words"), [(1 << WIDTH, "kept by count"), (6, "votes blocks.0.weight: a sum is")])
def test_packed_by_its_own_code_the_sum_is_corrupt(added: int, words: str, tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    packed = stage.packed(ONE)
    packed[0][1] += np.uint64(added - int(stage.lanes[ONE]["votes blocks.0.weight"][0]))
    stage.upload_words(ONE, packed)
    stage.go_on(Phase.DONE)  # headers, padding and AUDIT are in order: it is the sum of what was sent
    opened = {name: sums.tolist() for name, sums in stage.open().items()}
    shifted = difference(opened, plain(stage, *SILOS))["votes blocks.0.weight"]
    assert any(shifted) and not any(shifted[2:])
    with pytest.raises(CorruptSum, match=words):
        publish(stage, tmp_path)
    assert list(tmp_path.iterdir()) == []
