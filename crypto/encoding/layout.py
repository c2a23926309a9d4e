"""The layout of a release: named sections of lanes, cut into chunks of words that travel and are masked one by one."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crypto.encoding.lanes import lanes_per_word, pack, unpack, words_for
from crypto.encoding.words import WORD_BYTES
from crypto.errors import CorruptSum, PlanError

HEADER_WORDS = 1
"""Each chunk begins with a word that every silo sets to 1, so that it sums to the number of survivors."""


@dataclass(frozen=True)
class Section:
    """`lanes` counters of `width` bits each that belong together, such as one tensor's keep mask."""

    name: str
    lanes: int
    width: int

    @property
    def words(self) -> int:
        """Words of all its lanes, without headers."""
        return words_for(self.lanes, self.width)


@dataclass(frozen=True)
class Chunk:
    """Lanes `start` to `start + lanes` of a section, as one message; `index` counts over the whole layout."""

    index: int
    section: Section
    start: int
    lanes: int

    @property
    def words(self) -> int:
        """Words of the message, header included."""
        return HEADER_WORDS + words_for(self.lanes, self.section.width)


OpenedChunk = tuple[Chunk, NDArray[np.uint64]]
"""A chunk and its summed lanes, shape (chunk.lanes,)."""


@dataclass(frozen=True)
class Layout:
    """All sections of a release in order; a chunk has at most `chunk_words` words after its header.

    Raises PlanError for a repeated section name, a section without lanes, an impossible lane width or chunk size.
    """

    sections: tuple[Section, ...]
    chunk_words: int

    def __post_init__(self) -> None:
        if self.chunk_words < 1:
            raise PlanError(f"chunk_words is {self.chunk_words}", hint="a chunk has at least one word")
        names = set()
        for section in self.sections:
            if section.name in names:
                raise PlanError(f"section {section.name} is listed twice", hint="give each section its own name")
            if section.lanes < 1:
                raise PlanError(f"section {section.name} has {section.lanes} lanes", hint="leave out an empty section")
            if not 1 <= section.width <= 64:
                raise PlanError(
                    f"section {section.name} has lanes of {section.width} bits", hint="a lane has 1 to 64 bits"
                )
            names.add(section.name)

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """Every chunk in order. None spans two sections; all but a section's last are `chunk_words` full words."""
        pieces = []
        for section in self.sections:
            most = self.chunk_words * lanes_per_word(section.width)
            pieces += [(section, start, min(most, section.lanes - start)) for start in range(0, section.lanes, most)]
        return tuple(Chunk(index, *piece) for index, piece in enumerate(pieces))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of each chunk's words, header included."""
        return tuple(WORD_BYTES * chunk.words for chunk in self.chunks)

    @property
    def total_words(self) -> int:
        """Words of all chunks, headers included."""
        return sum(chunk.words for chunk in self.chunks)


def pack_chunk(chunk: Chunk, values: NDArray[np.bool_ | np.unsignedinteger]) -> NDArray[np.uint64]:
    """Return one silo's words of `chunk`, shape (chunk.words,): the header word 1, then `values` packed.

    Raises ValueError unless `values` has shape (chunk.lanes,); PlanError when a value does not fit its lane.
    """
    if values.shape != (chunk.lanes,):
        raise ValueError(f"chunk {chunk.index} has {chunk.lanes} lanes, the values have shape {values.shape}")
    words = np.empty(chunk.words, np.uint64)
    words[:HEADER_WORDS] = 1
    try:
        pack(values, chunk.section.width, words[HEADER_WORDS:])
    except PlanError as error:
        raise PlanError(f"section {chunk.section.name}: {error.message}", hint=error.hint) from None
    return words


def open_chunk(chunk: Chunk, words: NDArray[np.uint64], survivors: int) -> NDArray[np.uint64]:
    """Return the summed lanes of an unmasked chunk, shape (chunk.lanes,).

    Raises CorruptSum when the number of words is wrong, when the header is not `survivors`, or when bits outside the
    lanes are set: a missing or doubled silo, another chunk's words or a mask that was not removed all show here.
    """
    what = f"chunk {chunk.index} of section {chunk.section.name}"
    if words.shape != (chunk.words,):
        raise CorruptSum(f"{what}: {words.size} words instead of {chunk.words}")
    if words[0] != survivors:
        raise CorruptSum(f"{what}: the header counts {words[0]} silos, not the {survivors} survivors")
    try:
        return unpack(words[HEADER_WORDS:], chunk.section.width, chunk.lanes)
    except CorruptSum as error:
        raise CorruptSum(f"{what}: {error.message}") from None
