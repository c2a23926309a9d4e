"""A dishonest aggregator serves an auditor other words or paths than those of the chunk it is to recompute."""

from collections.abc import Callable

import pytest

from attacks.stage import AGGREGATOR, Stage, assert_silent, flip
from crypto.errors import BadAudit
from crypto.names import Phase
from sparsilo.v1 import words_pb2

pytestmark = pytest.mark.clause("5.9.2", "5.9.3")

Pieces = list[words_pb2.CommittedChunk]
CHUNK, OTHER = 0, 2
"""Two chunks of the same length."""


def path_of_another(pieces: Pieces, other: Pieces) -> Pieces:
    pieces[1].path[:] = other[1].path
    return pieces


def words_of_another(pieces: Pieces, other: Pieces) -> Pieces:
    pieces[1].words = other[1].words
    return pieces


def one_of_another(pieces: Pieces, other: Pieces) -> Pieces:
    return [pieces[0], other[1], *pieces[2:]]


def altered_word(pieces: Pieces, other: Pieces) -> Pieces:
    pieces[1].words = flip(pieces[1].words)
    return pieces


def altered_sum(pieces: Pieces, other: Pieces) -> Pieces:
    pieces[-1].words = flip(pieces[-1].words)
    return pieces


def shorter_path(pieces: Pieces, other: Pieces) -> Pieces:
    del pieces[1].path[-1]
    return pieces


def inner_node_for_a_leaf(pieces: Pieces, other: Pieces) -> Pieces:
    """RFC 9162 sets leaves apart from inner nodes, so the words cannot be two hashes."""
    pieces[1].words = pieces[1].path[0] * 2
    del pieces[1].path[0]
    return pieces


def renamed(pieces: Pieces, other: Pieces) -> Pieces:
    pieces[1].silo = "silo-009"
    return pieces


LIES: dict[str, Callable[[Pieces, Pieces], Pieces]] = {
    "all of another chunk": lambda pieces, other: other,
    "the sum of another chunk": lambda pieces, other: [*pieces[:-1], other[-1]],
    "a silo left out": lambda pieces, other: [pieces[0], *pieces[2:]],
    "a silo twice": lambda pieces, other: [pieces[0], *pieces],
    "two silos exchanged": lambda pieces, other: [pieces[1], pieces[0], *pieces[2:]],
    "no sum": lambda pieces, other: pieces[:-1],
    "two sums": lambda pieces, other: [*pieces, pieces[-1]],
    "nothing": lambda pieces, other: [],
    "one silo of another chunk": one_of_another,
    "the path of another chunk": path_of_another,
    "the words of another chunk": words_of_another,
    "an altered word": altered_word,
    "an altered sum": altered_sum,
    "a shorter path": shorter_path,
    "an inner node for a leaf": inner_node_for_a_leaf,
    "another name": renamed,
}


@pytest.mark.parametrize("lie", LIES)
def test_it_is_found(lie: str) -> None:
    stage = Stage(Phase.AUDIT)
    silo = stage.auditors(CHUNK)[0]
    pieces = LIES[lie](stage.committed(CHUNK), stage.committed(OTHER))
    with pytest.raises(BadAudit) as found:
        stage.silos[silo].audit(CHUNK, pieces)
    assert type(found.value) is BadAudit
    assert found.value.party == AGGREGATOR
    assert_silent(stage.silos[silo])


def test_the_truth_is_not() -> None:
    Stage(Phase.AUDIT).finish()
