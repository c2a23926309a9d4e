"""The streaming sum against Python's integers, and whatever is not the survivors' sum refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.rounds.word_sum import write_sum
from crypto.backends.insecure_plaintext.sessions import InsecurePlaintextAggregator
from crypto.encoding.layout import Layout, Section, pack_chunk
from crypto.errors import CorruptSum
from crypto.names import Backend
from crypto.primitives.merkle import leaf
from crypto.secagg.round import Round
from silo_agent.opened_sums.opened_sum import opened_chunks
from support.plans import plan

LAYOUT = Layout((Section("a", 70, 3), Section("b", 5, 33)), 2)
SILOS = 3
Lanes = dict[str, NDArray[np.uint64]]


class Session(InsecurePlaintextAggregator):
    """Hides chunk i under the number 1000 + i, added to every word of the sum."""

    def __init__(self) -> None:
        super().__init__(Round(plan(backend=Backend.INSECURE_PLAINTEXT), 0, b""))

    def unmask_chunk(self, index: int, words: NDArray[np.uint64]) -> None:
        words -= np.uint64(1000 + index)


@pytest.fixture
def lanes() -> list[Lanes]:
    random = np.random.default_rng(3)
    fits = {"a": 2**3 // SILOS, "b": 2**33 // SILOS}  # so that no sum carries
    return [
        {each.name: random.integers(0, fits[each.name], each.lanes, np.uint64) for each in LAYOUT.sections}
        for _ in range(SILOS)
    ]


@pytest.fixture
def uploads(lanes: list[Lanes], tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{silo}.words" for silo in range(SILOS)]
    for silo, file in enumerate(files):
        chunks = [pack_chunk(c, lanes[silo][c.section.name][c.start : c.start + c.lanes]) for c in LAYOUT.chunks]
        masks = [np.uint64(1000 + index if silo == 1 else 0) for index in range(len(chunks))]  # one carries it all
        file.write_bytes(b"".join((words + mask).tobytes() for words, mask in zip(chunks, masks, strict=True)))
    return files


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_file_holds_every_lanes_sum_and_the_leaves_are_its_chunks(
    threads: int, lanes: list[Lanes], uploads: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "sum.words"
    leaves = write_sum(LAYOUT, uploads, Session(), file, threads)
    found: dict[str, list[int]] = {"a": [], "b": []}
    for chunk, values in opened_chunks(LAYOUT, file, SILOS):
        found[chunk.section.name] += values.tolist()
    assert found == {
        name: [sum(map(int, column)) for column in zip(*(e[name] for e in lanes), strict=True)] for name in found
    }
    content, at, expected = file.read_bytes(), 0, []
    for chunk in LAYOUT.chunks:
        expected.append(leaf(content[at : at + 8 * chunk.words]))
        at += 8 * chunk.words
    assert (leaves, at) == (expected, len(content))


def counted_twice(uploads: list[Path]) -> list[Path]:
    return [uploads[0], uploads[1], uploads[1]]


def chunks_exchanged(uploads: list[Path]) -> list[Path]:
    """The first two of one upload, of 24 bytes each."""
    content = uploads[1].read_bytes()
    uploads[1].write_bytes(content[24:48] + content[:24] + content[48:])
    return uploads


@pytest.mark.clause("6.7.2")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("change", [counted_twice, chunks_exchanged])
def test_what_is_not_the_survivors_sum_is_corrupt(
    change: Callable[[list[Path]], list[Path]], threads: int, uploads: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CorruptSum, match="the header counts"):
        write_sum(LAYOUT, change(uploads), Session(), tmp_path / "sum.words", threads)


def test_an_opened_sum_is_of_as_many_survivors(uploads: list[Path], tmp_path: Path) -> None:
    write_sum(LAYOUT, uploads, Session(), tmp_path / "sum.words", 1)
    with pytest.raises(CorruptSum, match="the header counts 3 silos, not the 2"):
        list(opened_chunks(LAYOUT, tmp_path / "sum.words", 2))


def test_a_sum_that_was_cut_short_is_no_sum(uploads: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "sum.words"
    write_sum(LAYOUT, uploads, Session(), file, 1)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="zip"):
        list(opened_chunks(LAYOUT, file, SILOS))
