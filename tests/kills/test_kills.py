"""`make kills`: aggregator, agent and both are killed all over a run, and in each phase by its name. Every run ends
exactly over its survivors, or in an abort after which the same plan is carried out; no person is asked.

A run that ends after OPENING leaves an accusation at a silo that did not see it come to DONE. Three of them at one silo
would ask for a person (14.6.2), so each run begins without.
"""

import itertools
import os
import random
from collections import Counter
from typing import Final

import pytest

from kills.federation import AGGREGATOR, Ended, Kill, KilledFederation
from silo_agent.host.metrics import PHASES

KILLS: Final = int(os.environ.get("KILLS", "300"))
VICTIMS: Final = ((AGGREGATOR,), ("b",), (AGGREGATOR, "b"))
NAMED: Final = tuple(phase for phase in PHASES if phase != "done")


def kills(count: int, duration: float) -> list[Kill]:
    """One for each phase and victims, and the rest uniformly over the duration of a run."""
    chance = random.Random(2)
    named = [Kill(victims, phase) for phase in NAMED for victims in VICTIMS]
    rest = [Kill(VICTIMS[at % len(VICTIMS)], chance.uniform(0, duration)) for at in range(count - len(named))]
    return [*named, *rest][:count]


class Seen:
    """What came of every run so far, each printed as it ends."""

    def __init__(self, federation: KilledFederation, capsys: pytest.CaptureFixture[str]) -> None:
        self._federation, self._capsys = federation, capsys
        self._outcomes, self._accused, self._wrong = Counter[str](), 0, list[Ended]()

    def kill(self, kill: Kill) -> Ended:
        ended = self._federation.killed(kill)
        self._outcomes[f"{' and '.join(kill.victims)}: {ended.run.status}"] += 1
        self._accused += ended.accusations > 0
        if ended.problems:
            self._wrong.append(ended)
        self._print(f"{self._outcomes.total()}: {ended}")
        return ended

    def check(self) -> None:
        self._print("\n".join(f"{outcome}: {count}" for outcome, count in sorted(self._outcomes.items())))
        self._print(f"an accusation was left by {self._accused}")
        assert not self._wrong, "\n".join(map(str, self._wrong))

    def _print(self, line: str) -> None:
        with self._capsys.disabled():
            print(line, flush=True)  # noqa: T201 - it is what the command is for


@pytest.mark.minutes
@pytest.mark.clause("4.11")
def test_whoever_is_killed_whenever(federation: KilledFederation, capsys: pytest.CaptureFixture[str]) -> None:
    undisturbed, seen = federation.killed(None), Seen(federation, capsys)
    assert not undisturbed.problems, undisturbed
    for kill in kills(KILLS, undisturbed.seconds):
        seen.kill(kill)
    seen.check()


@pytest.mark.minutes
@pytest.mark.clause("4.11")
def test_an_agent_is_killed_before_each_of_its_file_operations(
    federation: KilledFederation, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Seen(federation, capsys)
    for operation in itertools.count(1):
        if seen.kill(Kill(("b",), operation)).is_late:
            break
    seen.check()
