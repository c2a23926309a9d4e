"""A dishonest silo sends words masked for another round, whose seeds it knows from there."""

from pathlib import Path

import pytest

from attacks.stage import ONE, Stage, assert_not_taken, spool, word_chunks
from crypto.names import Phase

pytestmark = pytest.mark.clause("2.2.2", "6.5.1")


def test_refused_by_its_round(tmp_path: Path) -> None:
    stage = Stage(Phase.UPLOAD)
    honest, other = word_chunks(stage, ONE), word_chunks(Stage(Phase.UPLOAD, run=b"another run     "), ONE)
    assert_not_taken(spool(stage, tmp_path), [honest[0], other[1]], 1, honest)
