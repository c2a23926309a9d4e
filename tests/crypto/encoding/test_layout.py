"""Layouts against a walk over single lanes, and chunks through a whole plaintext sum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.encoding.layout import HEADER_WORDS, Chunk, Layout, Section, open_chunk, pack_chunk
from crypto.errors import CorruptSum, PlanError

layouts = st.builds(
    lambda shapes, chunk_words: Layout(
        tuple(Section(f"tensor{i}", lanes, width) for i, (lanes, width) in enumerate(shapes)), chunk_words
    ),
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 64)), max_size=4),
    st.integers(1, 6),
)


def walk(layout: Layout) -> list[tuple[str, int, int, int]]:
    """(section, first lane, lanes, body words) of each chunk, placing one lane at a time."""
    found = []
    for section in layout.sections:
        start = count = words = room = 0
        for lane in range(section.lanes):
            if room < section.width:
                if words == layout.chunk_words:
                    found.append((section.name, start, count, words))
                    start, count, words = lane, 0, 0
                words, room = words + 1, 64
            room -= section.width
            count += 1
        found.append((section.name, start, count, words))
    return found


@given(layouts)
def test_chunks_are_those_of_a_walk_over_lanes(layout: Layout) -> None:
    assert [(c.section.name, c.start, c.lanes, c.words - 1) for c in layout.chunks] == walk(layout)
    assert [c.index for c in layout.chunks] == list(range(len(layout.chunks)))
    assert layout.total_words == sum(1 + words for *_, words in walk(layout))
    assert layout.lengths == tuple(8 * (1 + words) for *_, words in walk(layout))
    assert layout.chunks is layout.chunks


@given(st.integers(1, 500), st.integers(1, 64))
def test_a_sections_words_are_those_of_one_large_chunk(lanes: int, width: int) -> None:
    section = Section("w", lanes, width)
    assert section.words == Layout((section,), 10**6).chunks[0].words - HEADER_WORDS


@given(layouts, st.integers(1, 5))
def test_summed_chunks_open_to_lanewise_sums(layout: Layout, silos: int) -> None:
    rng = np.random.default_rng(silos)
    for chunk in layout.chunks:
        largest = (2**chunk.section.width - 1) // silos
        rows = [
            np.array([int.from_bytes(rng.bytes(8), "little") % (largest + 1) for _ in range(chunk.lanes)], np.uint64)
            for _ in range(silos)
        ]
        rows[0][-1] = largest
        messages = [pack_chunk(chunk, row) for row in rows]
        assert all(len(message) == chunk.words and message[0] == 1 for message in messages)
        opened = open_chunk(chunk, sum(messages[1:], start=messages[0]), silos)
        assert opened.tolist() == [sum(int(row[lane]) for row in rows) for lane in range(chunk.lanes)]


@pytest.mark.parametrize(
    ("sections", "chunk_words"),
    [
        ((Section("w", 1, 1), Section("v", 1, 1), Section("w", 2, 2)), 8),
        ((Section("w", 0, 4),), 8),
        ((Section("w", 4, 0),), 8),
        ((Section("w", 4, 65),), 8),
        ((Section("w", 4, 4),), 0),
    ],
)
def test_an_impossible_layout_is_refused(sections: tuple[Section, ...], chunk_words: int) -> None:
    with pytest.raises(PlanError):
        Layout(sections, chunk_words)


def test_the_smallest_and_widest_layouts_are_accepted() -> None:
    layout = Layout((Section("a", 1, 1), Section("b", 3, 64)), 1)
    assert [(c.index, c.section.name, c.start, c.lanes, c.words) for c in layout.chunks] == [
        (0, "a", 0, 1, 2),
        (1, "b", 0, 1, 2),
        (2, "b", 1, 1, 2),
        (3, "b", 2, 1, 2),
    ]


CHUNK = Chunk(7, Section("model.layers.3.mlp", 100, 5), 24, 13)  # 12 lanes in the first word, 1 in the second


def test_values_must_be_as_many_as_the_lanes() -> None:
    for lanes in (0, 12, 14):
        with pytest.raises(ValueError, match="chunk 7 has 13 lanes"):
            pack_chunk(CHUNK, np.zeros(lanes, np.bool_))
    with pytest.raises(ValueError, match="13 lanes"):
        pack_chunk(CHUNK, np.zeros((13, 1), np.bool_))


def test_a_value_too_large_names_the_section() -> None:
    with pytest.raises(PlanError, match=r"model\.layers\.3\.mlp: .*5 bits"):
        pack_chunk(CHUNK, np.full(13, 32, np.uint8))


@pytest.mark.parametrize("header", [0, 1, 2, 4, 5, 2**63 + 3])
def test_the_header_must_count_the_survivors(header: int) -> None:
    words = 3 * pack_chunk(CHUNK, np.ones(13, np.bool_))
    assert open_chunk(CHUNK, words, 3).tolist() == [3] * 13
    words[0] = header
    with pytest.raises(CorruptSum, match=r"chunk 7 of section model\.layers\.3\.mlp: the header"):
        open_chunk(CHUNK, words, 3)


def test_stray_bits_and_words_name_the_chunk() -> None:
    good = pack_chunk(CHUNK, np.ones(13, np.bool_))
    for index, bit in ((1, 60), (1, 63), (2, 5), (2, 63)):
        words = good.copy()
        words[index] |= np.uint64(1 << bit)
        with pytest.raises(CorruptSum, match=r"chunk 7 of section model\.layers\.3\.mlp: bits outside"):
            open_chunk(CHUNK, words, 1)
    for wrong in (good[:-1], np.append(good, np.uint64(0)), good[:0]):
        with pytest.raises(CorruptSum, match=r"chunk 7 of section model\.layers\.3\.mlp: \d words instead of 3"):
            open_chunk(CHUNK, wrong, 1)
