"""Recomputing chunks: what was opened honestly passes, and one bit of anything else does not."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.backends.double_masking.replay import Replay, check_covered
from crypto.backends.double_masking.transcript import opening_masks, participants_digest
from crypto.errors import BadAudit
from crypto.names import Phase
from crypto.primitives.mask_stream import add_masks
from scenarios.world import World, random_lanes, tree
from sparsilo.v1 import round_pb2, words_pb2
from support.plans import plan, signing_keys

Pieces = list[words_pb2.CommittedChunk]
SURVIVORS = ["silo-000", "silo-001", "silo-003", "silo-004"]
LAST = len(SURVIVORS)
"""The place of the opened sum among the pieces."""


@pytest.fixture(scope="module")
def world() -> World:
    world = World(plan(5, threshold=3), signing_keys(5), {"silo-002": Phase.UPLOAD})
    world.run(random_lanes(world.plan, seed=9))
    return world


def replay(world: World, change: Callable[[round_pb2.Opening], object] = lambda _: None) -> Replay:
    """With what the aggregator says that opens the sum, changed."""
    transcript, opening = world.aggregator.transcript, round_pb2.Opening()
    opening.CopyFrom(transcript.opening)
    change(opening)
    participants = participants_digest(world.round.digest, transcript.participants)
    return Replay(world.round, participants, transcript.survivors, opening)


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "little") ^ 1 << bit).to_bytes(len(data), "little")


def test_what_was_opened_honestly_passes(world: World) -> None:
    for index in (2, 0, 3, 1):
        replay(world).chunk(index, world.committed(index))
        replay(world).chunk(index, iter(world.committed(index)))


@pytest.mark.clause("5.9.2")
@given(data=st.data())
def test_one_bit_of_a_chunk_or_of_its_path_is_refused(world: World, data: st.DataObject) -> None:
    index, place = data.draw(st.integers(0, 3)), data.draw(st.integers(0, LAST))
    pieces = world.committed(index)
    fields = [pieces[place].words, *pieces[place].path]
    at = data.draw(st.integers(0, len(fields) - 1))
    fields[at] = flipped(fields[at], data.draw(st.integers(0, 8 * len(fields[at]) - 1)))
    pieces[place] = words_pb2.CommittedChunk(silo=pieces[place].silo, words=fields[0], path=fields[1:])
    whose = [*SURVIVORS, "the opened sum"][place]
    with pytest.raises(BadAudit, match=f"^aggregator: chunk {index} of {whose} is not what its root commits to"):
        replay(world).chunk(index, pieces)


def renamed(pieces: Pieces) -> Pieces:
    pieces[1].silo = "silo-002"
    return pieces


def longer(pieces: Pieces) -> Pieces:
    pieces[1].words += bytes(8)
    return pieces


def without_path(pieces: Pieces) -> Pieces:
    del pieces[1].path[:]
    return pieces


def short_path(pieces: Pieces) -> Pieces:
    pieces[1].path[0] = pieces[1].path[0][1:]
    return pieces


@pytest.mark.clause("5.9.2")
@pytest.mark.parametrize(
    "change",
    [
        *(lambda pieces, at=at: pieces[:at] + pieces[at + 1 :] for at in range(LAST + 1)),
        lambda pieces: [*pieces, pieces[-1]],
        lambda pieces: [pieces[0], *pieces],
        lambda pieces: [pieces[1], pieces[0], *pieces[2:]],
        lambda pieces: [*pieces[:-2], pieces[-1], pieces[-2]],
        lambda pieces: [],
        *(renamed, longer, without_path, short_path),
    ],
)
def test_a_piece_too_few_or_too_many_or_out_of_place_is_refused(
    change: Callable[[Pieces], Pieces], world: World
) -> None:
    with pytest.raises(BadAudit, match=r"^aggregator: chunk 1 "):
        replay(world).chunk(1, change(world.committed(1)))


def test_another_chunks_words_are_refused(world: World) -> None:
    for index, other in ((0, 2), (2, 0)):  # of equal length
        assert world.layout.chunks[index].words == world.layout.chunks[other].words
        with pytest.raises(BadAudit, match="is not what its root commits to"):
            replay(world).chunk(index, world.committed(other))


@pytest.mark.clause("5.9.2")
@given(data=st.data())
def test_an_opened_word_that_the_aggregator_changed_and_committed_to_is_refused(
    world: World, data: st.DataObject
) -> None:
    """All paths are in order: only adding up the uploads shows it. Whoever has another chunk notices nothing."""
    index = data.draw(st.integers(0, 3))
    forged, honest = list(world.opened), world.opened
    forged[index] = flipped(forged[index], data.draw(st.integers(0, 8 * len(forged[index]) - 1)))
    world.opened = forged
    try:
        after = replay(world, lambda opening: setattr(opening, "sum_root", tree(forged).root))
        with pytest.raises(BadAudit, match=f"^aggregator: chunk {index} as opened is not the sum of the uploads"):
            after.chunk(index, world.committed(index))
        after.chunk((index + 1) % 4, world.committed((index + 1) % 4))
    finally:
        world.opened = honest


def other_self_seed(opening: round_pb2.Opening) -> None:
    opening.self_seeds[2].seed = flipped(opening.self_seeds[2].seed, 0)


def other_pair_seed(opening: round_pb2.Opening) -> None:
    opening.pair_seeds[3].seed = flipped(opening.pair_seeds[3].seed, 0)


@pytest.mark.clause("5.9.2", "6.7.2")
@pytest.mark.parametrize("lie", [other_self_seed, other_pair_seed])
def test_false_seeds_and_the_sum_they_give_do_not_count_the_survivors(
    lie: Callable[[round_pb2.Opening], None], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, keys = round_pb2.Opening(), world.aggregator.transcript.participants
    opening.CopyFrom(world.aggregator.transcript.opening)
    lie(opening)
    masks, participants = opening_masks(world.plan, opening), participants_digest(world.round.digest, keys)
    monkeypatch.setattr(world.aggregator, "unmask_chunk", lambda at, words: add_masks(words, masks, participants, at))
    monkeypatch.setattr(world, "opened", world.open_sum())
    opening.sum_root = tree(world.opened).root
    for index in range(4):
        with pytest.raises(BadAudit, match=r"^aggregator: chunk .*the header counts"):
            replay(world, lambda said: said.CopyFrom(opening)).chunk(index, world.committed(index))


@pytest.mark.clause("5.9.4", "5.9.5")
@given(st.integers(2, 6), st.data())
def test_covered_is_every_chunk_by_one_auditor_or_where_some_may_lie_by_both(silos: int, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.sampled_from(list(combinations(range(silos), 2))), min_size=1, max_size=8))
    judged = data.draw(st.sets(st.integers(0, silos - 1)))
    for colluders in range(3):
        needed = 1 if colluders == 0 else 2
        lacking = [index for index, pair in enumerate(pairs) if len(judged & {*pair}) < needed]
        if lacking:
            with pytest.raises(BadAudit, match=f"^aggregator: {len(lacking)} chunks, chunk {lacking[0]} among them"):
                check_covered(np.array(pairs, np.uint8), sorted(judged), colluders)
        else:
            check_covered(np.array(pairs, np.uint8), sorted(judged), colluders)
