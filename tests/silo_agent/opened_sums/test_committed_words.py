"""Chunks of a file with paths that lead to the root; files of another length refused."""

from hashlib import sha256
from pathlib import Path

import pytest

from crypto.errors import InputError
from crypto.plan import SILO_NAME
from crypto.primitives.merkle import leaf
from silo_agent.opened_sums.committed_words import SUM_FILE, WORDS_SUFFIX, CommittedWords, read_chunks

LENGTHS = [24, 16, 24, 16, 24, 24]
CHUNKS = [bytes([index]) * length for index, length in enumerate(LENGTHS)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "silo.words").write_bytes(b"".join(CHUNKS))
    return tmp_path / "silo.words"


def parent(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize("given", [None, [leaf(chunk) for chunk in CHUNKS]])
def test_every_chunk_with_its_path(given: list[bytes] | None, file: Path) -> None:
    a, b, c, d, e, f = (sha256(b"\0" + chunk).digest() for chunk in CHUNKS)
    ab, cd, ef = parent(a, b), parent(c, d), parent(e, f)
    paths = [[b, cd, ef], [a, cd, ef], [d, ab, ef], [c, ab, ef], [f, parent(ab, cd)], [e, parent(ab, cd)]]
    committed = CommittedWords(file, LENGTHS, "silo-7", given)
    assert committed.tree.root == parent(parent(ab, cd), ef)
    for index in (3, 0, 5, 1, 2, 4):
        piece = committed.chunk(index)
        assert (piece.silo, piece.words, list(piece.path)) == ("silo-7", CHUNKS[index], paths[index])


@pytest.mark.parametrize("length", [0, 8 * 15, 8 * 16 - 1, 8 * 16 + 1, 8 * 17])
def test_a_file_of_another_length_is_refused_by_name(length: int, file: Path) -> None:
    assert len(file.read_bytes()) == 8 * 16
    file.write_bytes(bytes(length))
    with pytest.raises(InputError, match=r"silo\.words: is not 128 bytes long"):
        CommittedWords(file, LENGTHS, "")


@pytest.mark.parametrize(
    ("length", "whole"), [(0, 0), (23, 0), (24, 1), (39, 1), (40, 2), (127, 5), (128, 6), (200, 6)]
)
def test_chunks_that_a_file_holds_whole(length: int, whole: int, file: Path) -> None:
    file.write_bytes((b"".join(CHUNKS) + bytes(100))[:length])
    assert list(read_chunks(file, LENGTHS)) == CHUNKS[:whole]


def test_no_silo_can_have_the_name_of_the_sums_file() -> None:
    assert not SILO_NAME.fullmatch(SUM_FILE.removesuffix(WORDS_SUFFIX))
