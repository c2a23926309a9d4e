"""Progress is drawn on a terminal, said in lines where that is asked for, and nowhere else."""

import pytest

from silo_agent.host import terminal
from silo_agent.host.terminal import ProgressBars


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds_a_step: float) -> list[str]:
    """What stderr says of six blocks, each of which takes so long."""
    clock = iter(range(100))
    monkeypatch.setattr(terminal, "monotonic", lambda: next(clock) * seconds_a_step)
    with ProgressBars() as progress:
        for done in range(7):
            progress("pruning blocks", done, 6)
        progress("pruning blocks", 6, 6)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_log_has_a_line_every_few_seconds_and_the_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSILO_PROGRESS", "lines")
    assert shown(capsys, monkeypatch, 100) == [f"pruning blocks: {done} of 6" for done in range(7)]
    assert shown(capsys, monkeypatch, terminal.LINE_SECONDS / 2) == [
        f"pruning blocks: {done} of 6" for done in (0, 2, 4, 6)
    ]
    assert shown(capsys, monkeypatch, 0) == [f"pruning blocks: {done} of 6" for done in (0, 6)]


@pytest.mark.parametrize("value", [None, "", "bars"])
def test_a_script_hears_nothing(
    value: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARSILO_PROGRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("SPARSILO_PROGRESS", value)
    assert shown(capsys, monkeypatch, 100) == []


def test_a_detail_that_changes_is_of_the_same_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSILO_PROGRESS", "lines")
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0)
    with ProgressBars() as progress:
        for detail in ("plan", "upload; awaited: b"):
            progress("rounds", 0, 1, detail)
        assert [task.description for task in progress._progress.tasks] == ["rounds (upload; awaited: b)"]
    assert capsys.readouterr().err.splitlines() == ["rounds (plan): 0 of 1", "rounds (upload; awaited: b): 0 of 1"]
