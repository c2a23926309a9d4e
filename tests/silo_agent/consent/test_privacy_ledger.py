"""The privacy ledger: nothing of what was spent can be taken back, and nobody spends the last of a budget twice."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crypto.errors import ReleaseRefused
from crypto.privacy.events import ExactEvent, GaussianEvent
from silo_agent.consent.privacy_ledger import (
    PRIVACY_FILE,
    PrivacyLedger,
    Spent,
    TamperedPrivacyLedger,
    epsilon_of,
    without_noise,
)
from silo_agent.consent.state_store import STATE_FILE, StateStore

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
FIRST = Spent(b"1" * 32, b"d" * 32, "", "energies", (GaussianEvent(4.0, 3), GaussianEvent(0.1)))
EXACT = Spent(b"2" * 32, b"e" * 32, "2026-a", "votes", (ExactEvent(),))
COIN = Spent(b"3" * 32, b"d" * 32, "", "sampling", ())
ALL = [FIRST, EXACT, COIN]


def anything(spent: Sequence[Spent]) -> None:
    """A check that lets everything pass, as an unlimited budget does."""


def at_most(rounds: int) -> Callable[[Sequence[Spent]], None]:
    def check(spent: Sequence[Spent]) -> None:
        if len(spent) >= rounds:
            raise ReleaseRefused("nothing is left")

    return check


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger in which three rounds were charged."""
    ledger = PrivacyLedger(tmp_path)
    for spent in ALL:
        ledger.charge(spent, anything, NOW)
    return tmp_path / PRIVACY_FILE


def test_before_the_first_round(tmp_path: Path) -> None:
    assert PrivacyLedger(tmp_path).spent() == []
    assert not (tmp_path / PRIVACY_FILE).exists()
    assert StateStore(tmp_path / STATE_FILE).privacy_head() is None


@pytest.mark.clause("14.7.2")
def test_what_was_spent_is_read_back(file: Path) -> None:
    """The lines have the fields that docs/formats.md lists, and no other."""
    assert PrivacyLedger(file.parent).spent() == ALL
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {
        "round": "31" * 32,
        "data": "64" * 32,
        "epoch": "",
        "kind": "energies",
        "events": [
            {"kind": "gaussian", "noise_multiplier": 4.0, "releases": 3},
            {"kind": "gaussian", "noise_multiplier": 0.1, "releases": 1},
        ],
        "sequence": 1,
        "time": "2026-11-28T12:00:00.000+00:00",
        "previous": "0" * 64,
    }
    assert [line["events"] for line in lines[1:]] == [[{"kind": "exact"}], []]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.clause("14.7.2")
def test_the_same_round_is_charged_once(file: Path) -> None:
    before = file.read_bytes()
    PrivacyLedger(file.parent).charge(FIRST, at_most(0), NOW)
    assert file.read_bytes() == before
    for other in (replace(FIRST, epoch="2026-b"), replace(FIRST, data=b"e" * 32)):  # of other people, or other text
        PrivacyLedger(file.parent).charge(other, anything, NOW)
    assert len(PrivacyLedger(file.parent).spent()) == 5


@pytest.mark.clause("14.7.4")
def test_where_nothing_is_left_nothing_is_written(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ReleaseRefused, match="nothing is left"):
        PrivacyLedger(file.parent).charge(replace(FIRST, round=b"4" * 32), at_most(3), NOW)
    assert file.read_bytes() == before
    assert PrivacyLedger(file.parent).spent() == ALL


def test_two_ledgers_that_were_open_before_both_see_what_the_other_spent(tmp_path: Path) -> None:
    one, other = PrivacyLedger(tmp_path), PrivacyLedger(tmp_path)
    assert one.spent() == other.spent() == []
    one.charge(FIRST, at_most(2), NOW)
    other.charge(EXACT, at_most(2), NOW)
    for ledger in (one, other):
        with pytest.raises(ReleaseRefused, match="nothing is left"):
            ledger.charge(COIN, at_most(2), NOW)
    assert one.spent() == [FIRST, EXACT]


def _charge(folder: Path, name: str) -> None:
    for number in range(15):
        spent = replace(FIRST, round=f"{name}{number:02}".encode() * 8)
        try:
            PrivacyLedger(folder).charge(spent, at_most(10), NOW)
        except ReleaseRefused:
            return


@pytest.mark.clause("14.7.4")
def test_two_processes_cannot_both_spend_the_last_of_the_budget(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    agents = [context.Process(target=_charge, args=(tmp_path, name)) for name in "ab"]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join(120)
    assert [agent.exitcode for agent in agents] == [0, 0]
    assert len(PrivacyLedger(tmp_path).spent()) == 10


# Crashes.


def test_half_a_line_never_counted(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"data":"64')
    assert PrivacyLedger(file.parent).spent() == ALL
    PrivacyLedger(file.parent).charge(replace(FIRST, round=b"4" * 32), anything, NOW)
    assert file.read_bytes().startswith(whole)
    assert len(PrivacyLedger(file.parent).spent()) == 4
    assert (file.parent / "privacy-ledger.torn").read_bytes() == b'{"data":"64\n'


def test_a_line_that_was_not_noted_any_more_counts(file: Path) -> None:
    """Killed between the two; what is charged again notes it."""
    store = StateStore(file.parent / STATE_FILE)
    head = store.privacy_head()
    store.note_privacy_head(2, json.loads(file.read_text().splitlines()[2])["previous"])
    assert PrivacyLedger(file.parent).spent() == ALL
    PrivacyLedger(file.parent).charge(COIN, at_most(0), NOW)
    assert store.privacy_head() == head


# Whatever is changed refuses every release.

Tampering = Callable[[list[str]], list[str]]


def cheaper(lines: list[str]) -> list[str]:
    return [lines[0].replace('"noise_multiplier":4.0', '"noise_multiplier":9.0'), *lines[1:]]


def of_another_epoch(lines: list[str]) -> list[str]:
    return [lines[0], lines[1].replace("2026-a", "2026-b"), lines[2]]


def the_last_one_altered(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[2].replace("sampling", "evening")]


def one_left_out(lines: list[str]) -> list[str]:
    return [lines[0], lines[2]]


def truncated(lines: list[str]) -> list[str]:
    return lines[:2]


def half_of_the_last_one(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[2][:40]]


def emptied(lines: list[str]) -> list[str]:
    return []


def swapped(lines: list[str]) -> list[str]:
    return [lines[1], lines[0], lines[2]]


def twice(lines: list[str]) -> list[str]:
    return [*lines, lines[2]]


@pytest.mark.clause("14.7.5")
@pytest.mark.parametrize(
    ("tampering", "line"),
    [
        *((cheaper, 1), (of_another_epoch, 2), (the_last_one_altered, 3), (one_left_out, 2), (truncated, 3)),
        *((half_of_the_last_one, 3), (emptied, 1), (swapped, 1), (twice, 4)),
    ],
)
def test_a_ledger_that_is_not_what_was_written_refuses(tampering: Tampering, line: int, file: Path) -> None:
    changed = "".join(tampering(file.read_text().splitlines(keepends=True)))
    file.write_text(changed)
    refuses(file, line)
    if tampering is not half_of_the_last_one:  # which goes beside it
        assert file.read_text() == changed


def refuses(file: Path, line: int) -> None:
    for _ in range(2):
        with pytest.raises(TamperedPrivacyLedger) as refused:
            PrivacyLedger(file.parent).spent()
        assert isinstance(refused.value, ReleaseRefused)
        assert refused.value.code == ReleaseRefused.code
        assert refused.value.line == line
        assert refused.value.message.startswith(f"{file}: line {line}: ")
        assert "until the file is back as it was" in refused.value.hint
        for spent in (FIRST, replace(FIRST, round=b"4" * 32)):
            with pytest.raises(TamperedPrivacyLedger):
                PrivacyLedger(file.parent).charge(spent, anything, NOW)


@pytest.mark.clause("14.7.5")
@pytest.mark.parametrize("is_kept_elsewhere", [False, True])
def test_a_ledger_that_is_gone_refuses_until_it_is_back(is_kept_elsewhere: bool, file: Path) -> None:
    content = file.read_bytes()
    if is_kept_elsewhere:
        file.rename(file.with_suffix(".old"))
    else:
        file.unlink()
    refuses(file, 1)
    file.write_bytes(content)
    assert PrivacyLedger(file.parent).spent() == ALL


@pytest.mark.clause("14.7.5")
def test_an_older_copy_of_the_ledger_refuses(tmp_path: Path) -> None:
    ledger, file = PrivacyLedger(tmp_path), tmp_path / PRIVACY_FILE
    ledger.charge(FIRST, anything, NOW)
    older = file.read_bytes()
    ledger.charge(EXACT, anything, NOW)
    file.write_bytes(older)
    refuses(file, 2)


def test_an_event_that_a_later_version_wrote_refuses(tmp_path: Path) -> None:
    """What it tells is not known here, so it may be everything."""
    other = PrivacyLedger(tmp_path)
    other.charge(replace(FIRST, events=(GaussianEvent(-1.0),)), anything, NOW)
    with pytest.raises(TamperedPrivacyLedger, match="line 1: says nothing of a release that this version knows"):
        other.spent()


def test_what_is_spent_comes_to() -> None:
    gaussian = replace(FIRST, events=(GaussianEvent(4.0),))
    assert epsilon_of([], 1e-6) == epsilon_of([COIN], 1e-6) == 0
    assert epsilon_of([gaussian], 1e-6) < epsilon_of([gaussian] * 2, 1e-6) < float("inf")
    assert epsilon_of([gaussian], 1e-6, gaussian.events) == epsilon_of([gaussian] * 2, 1e-6)
    assert epsilon_of(ALL, 1e-6) == float("inf")
    assert without_noise([*ALL, EXACT]) == 2
