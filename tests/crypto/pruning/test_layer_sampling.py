"""The draw of cohorts: its promises over thousands of draws, its known answer, and the averages that rest on it."""

import random
from collections import Counter
from fractions import Fraction
from hashlib import sha256
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from crypto.errors import PlanError
from crypto.pruning.layer_sampling import draw, linear_average_weight

CAPACITIES = {"d": 7, "a": 3, "c": 1, "b": 5}  # no order but their own
BLOCKS, FLOOR = 7, 2  # 16 places over 7 blocks: cohorts of 2 and 3
DRAWS = 10_000


def coin(number: int) -> bytes:
    return sha256(f"a coin {number}".encode()).digest()


def words(of: bytes) -> list[int]:
    """The first 400 words that a coin stands for."""
    stream = b"".join(sha256(b"sparsilo/1 layer sampling" + of + bytes([n, *[0] * 7])).digest() for n in range(100))
    return np.frombuffer(stream, "<u8").tolist()


def redrawn(of: bytes, capacities: dict[str, int], blocks: int) -> list[set[str]]:
    """The documented draw, step by step."""
    stream, used = words(of), 0
    orders: list[list[int]] = []
    for size in (blocks, len(capacities)):
        order = list(range(size))
        for last in reversed(range(1, size)):
            assert stream[used] < 2**64 // (last + 1) * (last + 1)  # else a word more would be due
            other = stream[used] % (last + 1)
            used += 1
            order[last], order[other] = order[other], order[last]
        orders.append(order)
    circle, turns = orders
    names = list(capacities)
    holders = [names[turn] for turn in turns for _ in range(capacities[names[turn]])]
    return [{name for place, name in enumerate(holders) if circle[place % blocks] == block} for block in range(blocks)]


@pytest.fixture(scope="module")
def draws() -> list[tuple[tuple[str, ...], ...]]:
    return [draw(coin(number), CAPACITIES, BLOCKS, FLOOR) for number in range(DRAWS)]


def test_known_answers() -> None:
    for number in range(50):
        found = draw(coin(number), CAPACITIES, BLOCKS, FLOOR)
        assert [set(cohort) for cohort in found] == redrawn(coin(number), CAPACITIES, BLOCKS)
    spread = {"a": 2, "b": 2, "c": 2, "d": 2}
    assert [set(each) for each in draw(bytes(32), spread, 4, 2)] == redrawn(bytes(32), spread, 4)


def test_ten_thousand_draws_keep_every_promise(draws: list[tuple[tuple[str, ...], ...]]) -> None:
    for cohorts in draws:
        assert len(cohorts) == BLOCKS
        assert Counter(map(len, cohorts)) == {2: 5, 3: 2}  # 16 places: rounded down or up, never below the floor
        assert Counter(silo for cohort in cohorts for silo in cohort) == CAPACITIES  # each block once
        assert all(cohort == tuple(silo for silo in CAPACITIES if silo in cohort) for cohort in cohorts)


def test_coverage_and_floor_whatever_the_sizes() -> None:
    some = random.Random(1)
    for number in range(DRAWS):
        blocks, silos = some.randint(1, 12), some.randint(1, 8)
        capacities = {f"silo-{at}": some.randint(1, blocks) for at in range(silos)}
        carried = sum(capacities.values())
        if carried < blocks:
            continue
        floor = carried // blocks
        cohorts = draw(coin(number), capacities, blocks, floor)
        assert {len(cohort) for cohort in cohorts} == {floor, -(-carried // blocks)}
        assert Counter(silo for cohort in cohorts for silo in set(cohort)) == capacities


def test_a_silo_is_in_a_cohort_with_probability_capacity_over_blocks(draws: list[tuple[tuple[str, ...], ...]]) -> None:
    for silo, capacity in CAPACITIES.items():
        seen = np.array([[silo in cohort for cohort in cohorts] for cohorts in draws]).sum(0)
        p = capacity / BLOCKS
        assert (abs(seen - DRAWS * p) <= 4.5 * (DRAWS * p * (1 - p)) ** 0.5).all(), silo


def test_every_set_of_blocks_and_every_pair_of_silos_comes_up(draws: list[tuple[tuple[str, ...], ...]]) -> None:
    """A silo's set is one of 35, equally likely; its neighbours on the circle change with the silos' order."""
    sets = Counter(tuple(b for b in range(BLOCKS) if "a" in cohorts[b]) for cohorts in draws)
    assert len(sets) == 35
    assert stats.chisquare(list(sets.values())).pvalue > 1e-4
    together = Counter(sum({"a", "b"} <= set(cohort) for cohort in cohorts) for cohorts in draws)
    assert set(together) == {1, 2}  # two where c comes between them, one where not: d is everywhere


def test_orders_are_uniform() -> None:
    """Of the blocks on the circle and of the silos: with a place each, who has which block is a random permutation."""
    one_each = dict.fromkeys("abcd", 1)
    found = Counter(tuple(silo for (silo,) in draw(coin(n), one_each, 4, 1)) for n in range(DRAWS))
    assert stats.chisquare([found[order] for order in permutations("abcd")]).pvalue > 1e-4


def test_words_past_the_last_whole_multiple_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^64 - 1 is a multiple of 3 and 5: taken as it comes, it would make 0 likelier than the others."""
    orders = []
    for stream in ([2**64 - 1, 5, 7, 5, 7], [5, 7, 5, 7]):
        monkeypatch.setattr("crypto.pruning.layer_sampling._words", lambda _, words=stream: iter(words))
        orders.append(draw(bytes(32), {"a": 1, "b": 1, "c": 1}, 3, 1))
    assert orders[0] == orders[1]


def test_the_coin_decides_every_blocks_cohort(draws: list[tuple[tuple[str, ...], ...]]) -> None:
    assert draw(coin(1), CAPACITIES, BLOCKS, FLOOR) == draws[1]
    for block in range(BLOCKS):
        assert len({cohorts[block] for cohorts in draws[:200]}) > 4


@pytest.mark.parametrize("capacities", [CAPACITIES, {"a": 3, "b": 3, "c": 3}])
def test_linear_averages_are_unbiased(capacities: dict[str, int]) -> None:
    """Against full participation, by Monte Carlo: within four standard errors at every block and for every weight."""
    random_ = np.random.default_rng(2)
    silos, weight = list(capacities), float(linear_average_weight(capacities, BLOCKS))
    uploads = {silo: random_.normal(size=(BLOCKS, 3)) + at for at, silo in enumerate(silos)}
    capacity = {silo: capacities[silo] for silo in silos}
    weighted = sum(capacity[silo] * uploads[silo] for silo in silos) / sum(capacity.values())
    plain = sum(uploads.values()) / len(silos)
    linear, thompson = [], []
    for number in range(4000):
        cohorts = draw(coin(number), capacities, BLOCKS, 1)
        linear.append([weight * sum(uploads[silo][block] for silo in cohorts[block]) for block in range(BLOCKS)])
        scaled = {silo: BLOCKS / (len(silos) * capacity[silo]) * uploads[silo] for silo in silos}
        thompson.append([sum(scaled[silo][block] for silo in cohorts[block]) for block in range(BLOCKS)])
    for estimates, truth in ((np.array(linear), weighted), (np.array(thompson), plain)):
        error = estimates.std(0, ddof=1) / len(estimates) ** 0.5
        assert (error > 0).all()
        assert (abs(estimates.mean(0) - truth) < 4 * error).all()
    assert (abs(weighted - plain) > 1e-9).any() == (len(set(capacities.values())) > 1)


def test_linear_average_weight_is_exact() -> None:
    assert linear_average_weight(CAPACITIES, BLOCKS) == Fraction(7, 16)
    assert linear_average_weight({"a": 4, "b": 4}, 4) == Fraction(1, 2)  # everybody everywhere: the mean


@pytest.mark.parametrize(
    ("capacities", "floor", "message"),
    [
        ({"a": 8, "b": 7}, 1, "capacity of a: 8 blocks, the model has 7 (declare 1 to 7)"),
        ({"a": 7, "b": 0}, 1, "capacity of b: 0 blocks, the model has 7 (declare 1 to 7)"),
        ({"a": 7, "b": 7}, 3, "cohort floor: 3 silos a block, of 2 (ask for 1 to 2)"),
        ({"a": 7, "b": 7}, 0, "cohort floor: 0 silos a block, of 2 (ask for 1 to 2)"),
        (
            {"a": 7, "b": 6},
            2,
            "cohort floor: 7 blocks with 2 silos each need 14 places, the capacities add up to 13 "
            "(declare 1 more blocks, or lower the floor)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(capacities: dict[str, int], floor: int, message: str) -> None:
    with pytest.raises(PlanError) as error:
        draw(bytes(32), capacities, BLOCKS, floor)
    assert str(error.value) == message


def test_a_floor_that_is_just_met_is_drawn() -> None:
    cohorts = draw(bytes(32), {"a": 7, "b": 7}, 7, 2)
    assert cohorts == (("a", "b"),) * 7
