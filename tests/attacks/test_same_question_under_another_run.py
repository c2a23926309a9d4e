"""A dishonest aggregator asks the same question again under another run, when other silos are there to answer."""

from pathlib import Path
from typing import Any

import pytest

from attacks.stage import ZERO, Stage, agents
from crypto.errors import ReleaseRefused
from crypto.names import Phase

pytestmark = pytest.mark.clause("2.5.1", "2.5.2", "2.5.3")

AGAIN: dict[str, dict[str, Any]] = {
    "another run": {"run": b"another run     "},
    "other chunks": {"chunk_words": 2},
    "another threshold": {"threshold": 4},
    "two silos more": {"silos": 7, "threshold": 4},
}


@pytest.mark.parametrize("how", AGAIN)
@pytest.mark.parametrize("until", [Phase.CONSISTENCY, Phase.DONE])
def test_refused_before_anything_is_computed(how: str, until: Phase, tmp_path: Path) -> None:
    agents(Stage(), tmp_path, ZERO).go_on(until)
    with pytest.raises(ReleaseRefused, match="the same was asked of the same text"):
        agents(Stage(**AGAIN[how]), tmp_path, ZERO)


def test_a_round_that_ended_before_the_upload_released_nothing(tmp_path: Path) -> None:
    agents(Stage(), tmp_path, ZERO).go_on(Phase.SHARES)
    agents(Stage(run=b"another run     "), tmp_path, ZERO).finish()
