"""Results in order, as many ahead as allowed, and errors where the result would have been."""

import threading
import time
from collections.abc import Iterator

import pytest

from silo_agent.host.ahead import ahead


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 3, 40])
def test_results_come_in_order(items: int, threads: int) -> None:
    def slower_first(item: int) -> int:
        time.sleep((items - item) % 3 / 500)
        return item * item

    assert list(ahead(slower_first, range(items), threads)) == [item * item for item in range(items)]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_so_many_work_at_once_and_no_more_results_exist_than_one_more(threads: int) -> None:
    lock, started, working, most = threading.Lock(), 0, 0, 0

    def work(item: int) -> int:
        nonlocal started, working, most
        with lock:
            started, working = started + 1, working + 1
            most = max(most, working)
        time.sleep(0.01)
        with lock:
            working -= 1
        return item

    for taken, _ in enumerate(ahead(work, range(30), threads)):
        time.sleep(0.002)
        assert started <= taken + 1 + threads
    assert most == threads


def test_nothing_is_taken_before_it_is_needed() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            asked.append(item)
            yield item

    results = ahead(lambda item: item, items(), 3)
    assert (next(results), next(results)) == (0, 1)
    assert len(asked) == 1 + 1 + 3


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_its_place_and_ends_the_stream(threads: int) -> None:
    def work(item: int) -> float:
        return 1 / (5 - item)

    results = ahead(work, range(50), threads)
    assert [next(results) for _ in range(5)] == [1 / (5 - item) for item in range(5)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
