"""Releases of a few numbers: outlier counts, and the random words of the sampling coin."""

import struct
from hashlib import sha256

import pytest

from silo_agent.releases.outliers import OutliersRelease
from silo_agent.releases.sampling import SamplingRelease
from support.opened import Tensors, planned, released

BLOCKS: Tensors = {f"blocks.{block}.weight": (block, (2, 300), False) for block in range(9)}


@pytest.mark.parametrize("chunk_words", [1, 100])
def test_outliers_are_a_lane_a_block(chunk_words: int) -> None:
    plan = planned(BLOCKS, allocation="owl", chunk_words=chunk_words)
    counts = [0, 600, 3, 599, 5, 6, 7, 8, 9]
    assert released(OutliersRelease(counts), plan, 0) == {"outliers": counts}


@pytest.mark.clause("2.4.9")
@pytest.mark.parametrize("chunk_words", [1, 3, 100])
def test_a_coins_words_are_drawn_once_and_fill_their_lanes(chunk_words: int) -> None:
    plan = planned(BLOCKS, cohort_floor=3, capacities=(9,) * 5, chunk_words=chunk_words)
    drawn, asked = sha256(b"entropy").digest(), []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return drawn if len(asked) == 1 else bytes(count)

    release = SamplingRelease(entropy)
    for _ in range(2):  # the second time as a retry asks
        assert released(release, plan, 0) == {"coin": list(struct.unpack("<4Q", drawn))}
    assert asked == [32]
