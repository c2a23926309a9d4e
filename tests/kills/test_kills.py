"""`make kills`: aggregator, agent and both are killed all over a run, and in each phase by its name. Every run ends
exactly over its survivors, or in an abort after which the same plan is carried out; no person is asked.

A run that ends after OPENING leaves an accusation at a silo that did not see it come to DONE. Three of them at one silo
would ask for a person (14.6.2), so each run begins without.
"""

import os
import random
from collections import Counter
from typing import Final

import pytest

from kills.federation import AGGREGATOR, Kill, KilledFederation
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


@pytest.mark.minutes
@pytest.mark.clause("4.11")
def test_whoever_is_killed_whenever(federation: KilledFederation, capsys: pytest.CaptureFixture[str]) -> None:
    undisturbed = federation.killed(None)
    assert not undisturbed.problems, undisturbed
    outcomes, accused, wrong = Counter[str](), 0, []
    for kill in kills(KILLS, undisturbed.seconds):
        ended = federation.killed(kill)
        outcomes[f"{' and '.join(kill.victims)}: {ended.run.status}"] += 1
        accused += ended.accusations > 0
        if ended.problems:
            wrong.append(ended)
        with capsys.disabled():
            print(f"{outcomes.total()}: {ended}", flush=True)  # noqa: T201
    with capsys.disabled():
        print("\n".join(f"{outcome}: {count}" for outcome, count in sorted(outcomes.items())))  # noqa: T201
        print(f"an accusation was left by {accused}")  # noqa: T201
    assert not wrong, "\n".join(map(str, wrong))
