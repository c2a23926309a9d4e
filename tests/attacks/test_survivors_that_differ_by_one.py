"""A dishonest aggregator calls one silo dropped in a second round of the same kind, and subtracts the sums."""

from pathlib import Path

import pytest

from attacks.stage import FOUR, SILOS, Stage, agents, difference, plain
from crypto.errors import ReleaseRefused
from crypto.names import Phase

pytestmark = pytest.mark.clause("2.5.5", "2.5.6")

VOTES = "votes blocks.0.weight"


def second(lost: dict[str, Phase]) -> Stage:
    """A slightly different question, to which a silo answers nearly the same; here, the same."""
    return Stage(lost=lost, samples=5)


def test_no_honest_silo_signs_the_second_survivor_set(tmp_path: Path) -> None:
    agents(Stage(), tmp_path, *SILOS).finish()
    stage = agents(second({FOUR: Phase.UPLOAD}), tmp_path, *SILOS)
    stage.go_on(Phase.UPLOAD)
    for silo, answer in stage.answers().items():
        with pytest.raises(ReleaseRefused, match="survivors differ by one silo"):
            stage.silos[silo].receive(answer)
        with pytest.raises(StopIteration):
            next(stage.silos[silo].calls)  # type: ignore[attr-defined]  # it has nothing more to say
    assert not any(phase is Phase.CONSISTENCY for _, phase in stage.said)


def test_the_same_survivors_are_no_harm(tmp_path: Path) -> None:
    agents(Stage(), tmp_path, *SILOS).finish()
    agents(second({}), tmp_path, *SILOS).finish()


def test_without_a_ledger_the_difference_is_one_silos_keep_mask() -> None:
    sums = []
    for stage in (Stage(), second({FOUR: Phase.UPLOAD})):
        stage.finish()
        sums.append({VOTES: stage.open()[VOTES].tolist()})
    assert difference(*sums)[VOTES] == plain(Stage(), FOUR)[VOTES]
