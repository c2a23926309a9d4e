"""What a spool takes from a silo and what it refuses; its root against the definition over the file's bytes."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from aggregator.rounds.spool import Spool
from crypto.encoding.wire import encode
from crypto.errors import BadUpload, MalformedMessage
from crypto.primitives.merkle import leaf, root_of_path
from sparsilo.v1 import words_pb2

LENGTHS = [24, 16, 24, 16, 24, 24]

ROUND = bytes(range(32))


def content(index: int) -> bytes:
    return b"".join(sha256(bytes([index, word])).digest()[:8] for word in range(LENGTHS[index] // 8))


def chunk(at: int, **changes: object) -> bytes:
    fields: dict[str, object] = {"round": ROUND, "index": at, "words": content(at)} | changes
    return encode(words_pb2.WordChunk(**fields))  # type: ignore[arg-type]


def tree_hash(entries: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, as it is written."""
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    split = max(2**i for i in range(8) if 2**i < len(entries))
    return sha256(b"\x01" + tree_hash(entries[:split]) + tree_hash(entries[split:])).digest()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "silo.words", LENGTHS, ROUND, "silo-7")


def take(spool: Spool, *indices: int) -> int:
    stream = spool.start()
    for index in indices:
        spool.take(stream, chunk(index))
    return stream


def test_the_file_is_the_words_and_the_root_is_the_trees_over_the_chunks(spool: Spool) -> None:
    take(spool, *range(6))
    chunks = [content(index) for index in range(6)]
    assert spool.root() == tree_hash(chunks)
    assert spool.file.read_bytes() == b"".join(chunks)


@pytest.mark.parametrize("torn", [b"", b"\1", content(0)[:8], bytes(15)])
@pytest.mark.parametrize("whole", range(7))
def test_an_aggregator_that_was_killed_goes_on_with_what_is_in_the_file(whole: int, torn: bytes, spool: Spool) -> None:
    """`torn` is the beginning of a chunk, whose write was cut short; none is as long as the shortest chunk."""
    spool.file.write_bytes(b"".join(map(content, range(whole))) + (torn if whole < 6 else b""))
    again = Spool(spool.file, LENGTHS, ROUND, "silo-7")
    assert again.held == whole
    take(again, *range(whole, 6))
    chunks = [content(index) for index in range(6)]
    assert again.root() == tree_hash(chunks)
    assert spool.file.read_bytes() == b"".join(chunks)


@pytest.mark.parametrize("before", range(4))
def test_chunks_of_several_blocks_and_an_aggregator_killed_after_some(before: int, tmp_path: Path) -> None:
    """What of the last chunk was in memory alone is sent again, and the file is the words all the same."""
    lengths = [8008, 8008, 2760]
    chunks = [bytes([index]) * length for index, length in enumerate(lengths)]
    messages = [encode(words_pb2.WordChunk(round=ROUND, index=at, words=data)) for at, data in enumerate(chunks)]
    file = tmp_path / "silo.words"
    killed = Spool(file, lengths, ROUND, "silo-7")
    stream = killed.start()
    for message in messages[:before]:
        killed.take(stream, message)
    again = Spool(file, lengths, ROUND, "silo-7")
    stream = again.start()
    assert before - 1 <= again.held <= before
    for message in messages[again.held :]:
        again.take(stream, message)
    assert again.root() == tree_hash(chunks)
    assert file.read_bytes() == b"".join(chunks)
    assert [again.committed().chunk(index).words for index in range(3)] == chunks


@pytest.mark.clause("5.9.1")
@pytest.mark.parametrize("restarted", [False, True])
def test_committed_chunks_lead_to_the_root(restarted: bool, spool: Spool) -> None:
    take(spool, *range(6))
    spool.root()
    committed = (Spool(spool.file, LENGTHS, ROUND, "silo-7") if restarted else spool).committed()
    for index in range(6):
        piece = committed.chunk(index)
        assert (piece.silo, piece.words) == ("silo-7", content(index))
        assert root_of_path(leaf(content(index)), index, 6, piece.path) == tree_hash([content(i) for i in range(6)])


@pytest.mark.parametrize("taken", range(6))
def test_an_upload_with_chunks_missing_has_no_root(taken: int, spool: Spool) -> None:
    take(spool, *range(taken))
    with pytest.raises(BadUpload, match=f"silo-7: {taken} of 6 chunks arrived"):
        spool.root()


@pytest.mark.parametrize(
    ("first", "then"), [([], 1), ([0], 0), ([0], 2), ([0, 1, 2], 1), ([0, 1, 2, 3, 4], 6), ([0, 1, 2, 3, 4, 5], 5)]
)
def test_a_chunk_out_of_order(first: list[int], then: int, spool: Spool) -> None:
    stream = take(spool, *first)
    with pytest.raises(BadUpload, match=f"silo-7: chunk {then} where chunk {len(first)} is due"):
        spool.take(stream, chunk(0, index=then))
    for index in range(len(first), 6):
        spool.take(stream, chunk(index))
    assert spool.root() == tree_hash([content(index) for index in range(6)])
    assert spool.file.read_bytes() == b"".join(map(content, range(6))), "nothing of it is kept"


def test_a_chunk_after_the_last(spool: Spool) -> None:
    stream = take(spool, *range(6))
    with pytest.raises(BadUpload, match="chunk 6"):
        spool.take(stream, chunk(0, index=6))
    assert spool.root() == tree_hash([content(index) for index in range(6)])


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "a word too few": ({"words": content(1)[:-8]}, "chunk 1 has 8 bytes"),
    "a byte too few": ({"words": content(1)[:-1]}, "chunk 1 has 15 bytes"),
    "a byte too many": ({"words": content(1) + b"\0"}, "chunk 1 has 17 bytes"),
    "the length of another chunk": ({"words": content(0)}, "chunk 1 has 24 bytes"),
    "no words": ({"words": b""}, "chunk 1 has 0 bytes"),
    "another round": ({"round": bytes(32)}, "another round"),
    "no round": ({"round": b""}, "another round"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_chunk_is_refused_and_the_right_one_still_taken(case: str, spool: Spool) -> None:
    changes, problem = WRONG[case]
    stream = take(spool, 0)
    with pytest.raises(BadUpload, match=problem) as refused:
        spool.take(stream, chunk(1, **changes))
    assert refused.value.party == "silo-7"
    for index in range(1, 6):
        spool.take(stream, chunk(index))
    assert spool.root() == tree_hash([content(index) for index in range(6)])


@pytest.mark.clause("6.5.4")
@pytest.mark.parametrize("before", [0, 1, 4, 6])
def test_a_retry_goes_on_after_what_is_held(before: int, spool: Spool) -> None:
    take(spool, *range(before))
    assert spool.held == before
    take(spool, *range(before, 6))
    assert spool.root() == tree_hash([content(index) for index in range(6)])
    assert spool.file.read_bytes() == b"".join(map(content, range(6)))


@pytest.mark.clause("1.3")
def test_a_chunk_has_one_encoding(spool: Spool) -> None:
    stream, honest = take(spool, 0), chunk(1)
    field = words_pb2.WordChunk(index=1).SerializeToString()
    for other in (
        honest + b"\0",
        honest + field,
        field + honest,
        honest.replace(field, b"\x10\x81\x00"),
        honest[1:],
    ):
        with pytest.raises(MalformedMessage):
            spool.take(stream, other)
    assert spool.held == 1
    spool.take(stream, honest)


def test_an_old_stream_after_a_new_one_began(spool: Spool) -> None:
    old = take(spool, 0, 1)
    new = spool.start()
    with pytest.raises(BadUpload, match="a newer stream"):
        spool.take(old, chunk(2))
    for index in range(2, 6):
        spool.take(new, chunk(index))
    assert spool.root() == tree_hash([content(index) for index in range(6)])


@pytest.mark.parametrize("damage", [lambda w: w[8:] + w[:8], lambda w: bytes(len(w))])
def test_the_root_is_of_what_was_written(damage: Callable[[bytes], bytes], spool: Spool) -> None:
    """Two uploads that differ in one chunk never share a root."""
    stream = spool.start()
    for index in range(6):
        spool.take(stream, chunk(index, words=damage(content(index)) if index == 3 else content(index)))
    assert spool.root() != tree_hash([content(index) for index in range(6)])
