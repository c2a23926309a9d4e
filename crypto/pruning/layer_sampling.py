"""Layer sampling (FedSpaLLM, arXiv 2410.14852): which silos prune and upload each block, by what each can carry.

FedSpaLLM's aggregator chooses the blocks of each silo, independently of the others, so that a block may be nobody's or
one silo's alone, whose weights the sum would then show. Here the draw follows from a coin that no party chooses, and
every block has its floor of silos.
"""

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from hashlib import sha256
from itertools import count
from typing import Final, TypeVar

from crypto.errors import PlanError
from crypto.names import PROTOCOL

_TAG: Final = f"{PROTOCOL} layer sampling".encode()
_WORD: Final = 1 << 64

_Item = TypeVar("_Item")


def draw(coin: bytes, capacities: Mapping[str, int], blocks: int, floor: int) -> tuple[tuple[str, ...], ...]:
    """Return for each block its cohort: the silos that prune and upload it, in the order of `capacities`.

    The coin (32 bytes) puts the blocks in a random order on a circle, and the silos in a random order; silo after silo
    takes as many of the next places as its capacity. Hence every silo has exactly its capacity of different blocks,
    every set of so many equally likely, so that any given block is among them with probability capacity / blocks; and
    every block has sum of capacities / blocks silos, rounded down or up.
    Raises PlanError where a capacity is not 1 to `blocks`, or a block cannot have `floor` silos, 1 or more.
    """
    _check(capacities, blocks, floor)
    words = _words(coin)
    circle = _shuffled(range(blocks), words)
    cohorts: list[set[str]] = [set() for _ in range(blocks)]
    place = 0
    for silo in _shuffled(capacities, words):
        for _ in range(capacities[silo]):
            cohorts[circle[place % blocks]].add(silo)
            place += 1
    return tuple(tuple(silo for silo in capacities if silo in cohort) for cohort in cohorts)


def linear_average_weight(capacities: Mapping[str, int], blocks: int) -> Fraction:
    """Return what a sum over a drawn cohort is multiplied by to estimate an average over all silos without bias.

    Of silo i with capacity c_i let W_i be what it would upload for a block, the same whatever is drawn. It is in the
    block's cohort with probability c_i / blocks, so the expected sum is that of W_i c_i / blocks over all silos.
    Times this weight, blocks / sum of c_i, it is the average of W_i weighted by capacity: the plain mean where
    capacities are equal. The plain mean of n silos whatever their capacities (Horvitz and Thompson 1952) is the
    expected sum where silo i uploads W_i blocks / (n c_i), and no weight is due.
    Linear only: a ratio of two sums (the l0 average) or a threshold on one (mask expansion) is not free of bias.
    """
    return Fraction(blocks, sum(capacities.values()))


def _check(capacities: Mapping[str, int], blocks: int, floor: int) -> None:
    silos, carried = len(capacities), sum(capacities.values())
    for silo, capacity in capacities.items():
        if not 1 <= capacity <= blocks:
            raise PlanError(
                f"capacity of {silo}: {capacity} blocks, the model has {blocks}", hint=f"declare 1 to {blocks}"
            )
    if not 1 <= floor <= silos:
        raise PlanError(f"cohort floor: {floor} silos a block, of {silos}", hint=f"ask for 1 to {silos}")
    if carried < blocks * floor:
        raise PlanError(
            f"cohort floor: {blocks} blocks with {floor} silos each need {blocks * floor} places, "
            f"the capacities add up to {carried}",
            hint=f"declare {blocks * floor - carried} more blocks, or lower the floor",
        )


def _shuffled(items: Iterable[_Item], words: Iterator[int]) -> list[_Item]:
    """Return the items in an order that is drawn evenly from all (Fisher and Yates)."""
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = _below(last + 1, words)
        order[last], order[other] = order[other], order[last]
    return order


def _below(bound: int, words: Iterator[int]) -> int:
    """Draw a number uniform on 0 to `bound` - 1: words past the last whole multiple of `bound` are passed over."""
    return next(word for word in words if word < _WORD - _WORD % bound) % bound


def _words(coin: bytes) -> Iterator[int]:
    """Yield little-endian words, four of each SHA-256 of "sparsilo/1 layer sampling", coin and an 8-byte counter."""
    for number in count():
        digest = sha256(_TAG + coin + number.to_bytes(8, "little")).digest()
        yield from (int.from_bytes(digest[at : at + 8], "little") for at in range(0, 32, 8))
