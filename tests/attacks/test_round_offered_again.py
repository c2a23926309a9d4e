"""A dishonest aggregator offers a round again to an agent that was killed in it, to get a second, different answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.stage import PHASES, ZERO, Agent, Stage
from crypto.errors import ReleaseRefused
from crypto.names import Phase

pytestmark = pytest.mark.clause("4.3", "4.10", "5.5.1")


@pytest.mark.parametrize("phase", PHASES)
def test_whatever_it_had_said_a_restarted_agent_says_nothing_in_the_round(phase: Phase, tmp_path: Path) -> None:
    stage = Stage()
    agent = Agent(stage, ZERO, tmp_path)
    stage.go_on(phase)
    said = agent.message()
    stage.silos[ZERO] = restarted = stage.make_silo(ZERO)
    with pytest.raises(ReleaseRefused, match="already took part"):
        Agent(stage, ZERO, tmp_path)
    assert restarted.phase is Phase.PLAN
    assert restarted.message() != said  # what a silo that forgot would have said: a second key, or set, or seed
    with pytest.raises(ReleaseRefused, match="said something else"):
        agent.store.say(stage.round.digest, phase, restarted.message())


def test_the_whole_agent(approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.accepts(silo.agreed)
    with pytest.raises(ReleaseRefused, match="already took part"):
        silo.offer(silo.agreed)
    assert len(silo.said) == 1
