"""A journal is there again with everything in it, in order, and belongs to one round."""

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rounds.journal import CLOSED, SPOKE, UPLOADED, Journal
from crypto.errors import InputError

ROUND = bytes(range(32))
EVENTS = st.lists(st.tuples(st.sampled_from([SPOKE, UPLOADED, CLOSED]), st.sampled_from(["", "a", "b-2"]), st.binary()))


@pytest.mark.clause("4.11")
@settings(max_examples=20)
@given(EVENTS, EVENTS)
def test_events_are_there_when_note_returns_and_in_order(
    first: list[tuple[str, str, bytes]], then: list[tuple[str, str, bytes]]
) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "journal.sqlite"
        killed = Journal(file, ROUND)
        assert killed.events() == []
        for event in first:
            killed.note(*event)  # and it is never closed
        resumed = Journal(file, ROUND)
        assert resumed.events() == first
        for event in then:
            resumed.note(*event)
        resumed.close()
        assert Journal(file, ROUND).events() == first + then


@pytest.mark.parametrize("other", [sha256(b"another").digest(), b"", ROUND[:-1]])
def test_a_journal_of_another_round_is_refused_and_kept(other: bytes, tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    Journal(file, ROUND).note(SPOKE, "a", b"words")
    with pytest.raises(InputError, match=r"journal\.sqlite: is the journal of another round"):
        Journal(file, other)
    assert Journal(file, ROUND).events() == [(SPOKE, "a", b"words")]
