"""A dishonest aggregator calls some silos dropped in a second round of the same kind, and subtracts the sums."""

from pathlib import Path

import pytest

from attacks.sequences import asked, combined, over
from attacks.stage import FOUR, SILOS, THREE, agents, difference, plain
from crypto.errors import ReleaseRefused
from crypto.names import Phase

pytestmark = pytest.mark.clause("2.5.11", "2.5.12")


@pytest.mark.parametrize("survivors", [SILOS[:4], SILOS[:3], SILOS[2:]])
def test_no_honest_silo_signs_the_second_survivor_set(survivors: list[str], tmp_path: Path) -> None:
    """However many are missing: with colluders among them their difference may be one honest silo's."""
    agents(over(asked("0.5"), SILOS), tmp_path, *SILOS).finish()
    stage = agents(over(asked("0.6"), survivors), tmp_path, *SILOS)
    stage.go_on(Phase.UPLOAD)
    for silo, answer in stage.answers().items():
        with pytest.raises(ReleaseRefused, match="the survivors are not those of round"):
            stage.silos[silo].receive(answer)
        with pytest.raises(StopIteration):
            next(stage.silos[silo].calls)  # type: ignore[attr-defined]  # it has nothing more to say
    assert not any(phase is Phase.CONSISTENCY for _, phase in stage.said)


def test_without_a_ledger_the_difference_is_one_silos_keep_mask() -> None:
    first = over(asked("0.5"), SILOS)
    assert combined((1, first), (-1, over(asked("0.6"), SILOS[:4]))) == plain(first, FOUR)


def test_without_a_ledger_a_difference_of_two_is_the_victims_and_the_colluders_own() -> None:
    first = over(asked("0.5", threshold=4, colluders=1), SILOS)
    both = combined((1, first), (-1, over(asked("0.6"), SILOS[:3])))
    assert difference(both, plain(first, THREE)) == plain(first, FOUR)
