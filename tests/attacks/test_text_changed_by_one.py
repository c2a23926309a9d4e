"""One silo calibrates on other text and the others do not: the sums before and after differ by what it changed.

No rule stands against this one. docs/threat-model.md says so, and what to do.
"""

from pathlib import Path

import numpy as np

from attacks.stage import FOUR, SILOS, Agent, Stage, agents, difference, plain

VOTES = "votes blocks.0.weight"


def changed() -> Stage:
    """A second round in which FOUR's keep mask is of another text."""
    stage = Stage(samples=5)
    stage.lanes[FOUR] = {name: lanes - np.minimum(lanes, 1) for name, lanes in stage.lanes[FOUR].items()}
    return stage


def test_the_difference_is_the_change_of_that_silo(tmp_path: Path) -> None:
    before, after = Stage(), changed()
    agents(before, tmp_path, *SILOS).finish()
    Agent(after, FOUR, tmp_path, text=b"SHA-256 of a text that it changed")
    agents(after, tmp_path, *SILOS[:4]).finish()
    sums = [{VOTES: stage.open()[VOTES].tolist()} for stage in (before, after)]
    assert difference(*sums)[VOTES] == difference(plain(before, FOUR), plain(after, FOUR))[VOTES]
