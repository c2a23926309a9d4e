"""The decision rules of the phases, explored: every state of 3 and 4 silos keeps what
docs/security-argument.md uses.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement

import pytest

from adversary import exploration
from adversary.exploration import Exploration, Terms
from crypto.plan import least_threshold

SILOS = [  # silos, which of them collude, and of how many honest ones every sum must be
    *((3, 0, 2), (3, 0b100, 2), (4, 0b1000, 2), (4, 0, 3)),
    pytest.param(4, 0, 2, marks=pytest.mark.minutes),
]


def every_round(silos: int, colluders: int, honest: int) -> Iterator[Terms]:
    """Every round that the rules allow over some of so many silos."""
    for mask in range(1 << silos):
        size = mask.bit_count()
        for threshold in range(least_threshold(size, colluders.bit_count(), honest), size + 1):
            for least in range(threshold, size + 1):
                yield Terms(mask, threshold, least)


def explore(rounds: Exploration) -> set[str]:
    return {problem for state in rounds.states() for problem in rounds.problems(state)}


@pytest.mark.parametrize(("silos", "colluders", "honest"), [(3, 0, 2), (3, 0, 3), (4, 0, 2), (4, 0, 3), (4, 0b1000, 2)])
def test_every_state_of_one_round(silos: int, colluders: int, honest: int) -> None:
    for terms in every_round(silos, colluders, honest):
        assert explore(Exploration((terms,), colluders, honest)) == set(), terms


@pytest.mark.parametrize(("silos", "colluders", "honest"), SILOS)
def test_every_state_of_two_rounds_about_the_same(silos: int, colluders: int, honest: int) -> None:
    for pair in combinations_with_replacement(every_round(silos, colluders, honest), 2):
        assert explore(Exploration(pair, colluders, honest, with_openings=False)) == set(), pair


def test_every_state_of_three_rounds_about_the_same() -> None:
    assert explore(Exploration((Terms(0b111, 2, 2),) * 3, 0, 2, with_openings=False)) == set()


def test_quorums_that_need_not_meet_are_noticed() -> None:
    assert explore(Exploration((Terms(0b1111, 2, 2),), 0, 2)) >= {
        *("two survivor sets were signed by a quorum each", "a round opened two sums"),
        *("both secrets of one silo can be put together", "two openings were signed by a quorum each"),
    }


def test_silos_that_sign_any_survivors_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "check_survivors", lambda *_: None)
    exploration.signs.cache_clear()
    assert "the sums tell of silo-002 alone" in explore(Exploration((Terms(0b111, 2, 2),) * 2, 0, 2, False))
    exploration.signs.cache_clear()
