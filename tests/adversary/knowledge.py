"""What opened sums say of few silos: exact linear algebra over everything that the adversary has opened.

A sum is the set of answers that were added up. An answer is one silo's, to one question about one block, and nobody
knows anything of it beforehand; what is known, a colluder's answer or one that can be predicted, is not in the set.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Final

Answer = tuple[int, int, str]
"""Whose answer it is, about which block, and what determines it."""

Sum = frozenset[Answer]

PRIME: Final = (1 << 61) - 1
"""Ranks are computed modulo this prime. A minor of a 0-1 matrix with up to 30 rows is smaller (Hadamard), so they are
the ranks over the rationals.
"""


@lru_cache(maxsize=1 << 16)
def isolated(sums: frozenset[Sum], fewest: int) -> frozenset[int]:
    """Return the smallest set of silos, fewer than `fewest`, whose answers alone some combination of the sums depends
    on; nobody where there is none.

    A combination that leaves out the answers of all other silos, and is not zero, exists exactly where these other
    answers have a smaller rank than all of them.
    """
    silos = sorted({silo for answers in sums for silo, _, _ in answers})
    if not sums or not silos:
        return frozenset()
    whole = rank(rows(sums, silos))
    for size in range(1, fewest):
        for few in combinations(silos, size):
            if rank(rows(sums, set(silos).difference(few))) < whole:
                return frozenset(few)
    return frozenset()


def rows(sums: Iterable[Sum], silos: Collection[int]) -> list[list[int]]:
    """The sums as rows over the answers of `silos`, one column an answer."""
    columns = sorted({answer for answers in sums for answer in answers if answer[0] in silos})
    return [[int(answer in answers) for answer in columns] for answers in sums]


def rank(matrix: Sequence[Sequence[int]]) -> int:
    """The rank of an integer matrix, by elimination."""
    left, found = [list(row) for row in matrix], 0
    for column in range(len(left[0]) if left else 0):
        pivot = next((row for row in left if row[column]), None)
        if pivot is None:
            continue
        left.remove(pivot)
        found += 1
        inverse = pow(pivot[column], -1, PRIME)
        for row in left:
            if factor := row[column] * inverse % PRIME:
                row[:] = [(value - factor * other) % PRIME for value, other in zip(row, pivot, strict=True)]
    return found
