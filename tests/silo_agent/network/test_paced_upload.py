"""An upload takes no more of the line than it may, whoever slowed it down before."""

from collections.abc import Iterator

import pytest

from silo_agent.network import transport
from silo_agent.network.transport import Transport


class FakeClock:
    """Passes while somebody waits, or when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def sent(rate: int, monkeypatch: pytest.MonkeyPatch, slow: float = 0.0) -> list[float]:
    """When each of five chunks of 1000 bytes leaves, after the first; the line itself takes `slow` for each."""
    clock = FakeClock()
    monkeypatch.setattr(transport, "monotonic", clock)
    paced = object.__new__(Transport)
    paced._upload_rate, paced._stopped = rate, clock  # type: ignore[assignment]

    def chunks() -> Iterator[bytes]:
        for _ in range(5):
            yield bytes(1000)

    moments = []
    for _ in paced._paced(chunks()):
        moments.append(clock.now - 100)
        clock.now += slow
    return moments


def test_chunks_leave_at_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent(500, monkeypatch) == [0, 2, 4, 6, 8]
    assert sent(0, monkeypatch) == [0] * 5


def test_what_the_line_held_up_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst would take what others need."""
    assert sent(500, monkeypatch, slow=5) == [0, 5, 10, 15, 20]
    assert sent(500, monkeypatch, slow=1) == [0, 2, 4, 6, 8]
