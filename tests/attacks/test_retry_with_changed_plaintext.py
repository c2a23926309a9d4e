"""A dishonest aggregator breaks an upload off and lets it be retried after the silo's file was changed."""

from pathlib import Path

import numpy as np
import pytest

from attacks.stage import ZERO, Agent, Stage, assert_silent
from crypto.errors import BadUpload
from crypto.names import Phase
from silo_agent.network.calls import Upload
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("4.9", "6.3.3", "6.5.3")


def words_of(chunk: bytes) -> bytes:
    return words_pb2.WordChunk.FromString(chunk).words


def test_no_second_plaintext_leaves_under_the_same_mask(tmp_path: Path) -> None:
    stage = Stage()
    agent = Agent(stage, ZERO, tmp_path)
    stage.go_on(Phase.UPLOAD)
    assert isinstance(agent.call, Upload)
    first = [words_of(chunk) for chunk in agent.call.chunks(0)]
    assert [words_of(chunk) for chunk in agent.call.chunks(0)] == first  # an honest retry
    agent.lanes["votes blocks.1.weight"] = 1 - agent.lanes["votes blocks.1.weight"]
    left: list[bytes] = []
    with pytest.raises(BadUpload, match="chunk 2 is not what was sent before") as refused:
        left.extend(map(words_of, agent.call.chunks(0)))
    assert refused.value.party == ZERO
    assert left == first[:2]
    assert_silent(agent.session)


def test_what_would_have_left_differs_by_the_plaintexts_difference() -> None:
    stage = Stage(Phase.UPLOAD)
    session, (old, *_) = stage.silos[ZERO], stage.packed(ZERO)
    sent = np.frombuffer(session.masked(0, old.copy()), "<u8")
    changed = old.copy()
    changed[1] ^= np.uint64(1)
    withheld = changed.copy()
    with pytest.raises(BadUpload):
        session.masked(0, withheld)  # masked in place before it is compared
    assert (withheld - sent).tolist() == (changed - old).tolist()


def test_also_after_the_root_was_signed() -> None:
    stage = Stage(Phase.UPLOAD)
    session, (old, *_) = stage.silos[ZERO], stage.packed(ZERO)
    stage.speak(ZERO)
    changed = old.copy()
    changed[1] ^= np.uint64(1)
    with pytest.raises(BadUpload):
        session.masked(0, changed)
    assert_silent(session)
