"""A journal, wherever it lies, is there again with everything in it, in order, and belongs to one round."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.rounds.journal import CLOSED, SPOKE, UPLOADED, OpenJournal

EVENTS = st.lists(st.tuples(st.sampled_from([SPOKE, UPLOADED, CLOSED]), st.sampled_from(["", "a", "b-2"]), st.binary()))


@pytest.mark.clause("4.11")
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=32, max_size=32), EVENTS, EVENTS)
def test_events_are_there_when_note_returns_and_in_order(
    open_journal: OpenJournal,
    tmp_path_factory: pytest.TempPathFactory,
    round_: bytes,
    first: list[tuple[str, str, bytes]],
    then: list[tuple[str, str, bytes]],
) -> None:
    folder = tmp_path_factory.mktemp("round")
    killed = open_journal(folder, round_)
    assert killed.events() == []
    for event in first:
        killed.note(*event)  # and it is never closed
    resumed = open_journal(folder, round_)
    assert resumed.events() == first
    for event in then:
        resumed.note(*event)
    resumed.close()
    again = open_journal(folder, round_)
    assert again.events() == first + then
    again.close(is_over=True)
    assert list(folder.iterdir()) == []
    nothing = open_journal(folder, round_)
    assert nothing.events() == []
    nothing.close(is_over=True)


def test_two_rounds_have_two_journals(open_journal: OpenJournal, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for at, folder in enumerate(folders):
        folder.mkdir()
        open_journal(folder, bytes([at]) * 32).note(SPOKE, "a", bytes([at]))
    for at, folder in enumerate(folders):
        journal = open_journal(folder, bytes([at]) * 32)
        assert journal.events() == [(SPOKE, "a", bytes([at]))]
        journal.close(is_over=True)
