"""Shamir's secret sharing (CACM 22(11), 1979) of 32-byte secrets over the prime field of 2^521 - 1.

Python integers are not constant-time: share only secrets that live for one round.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from crypto.errors import BadShare

PRIME: Final = 2**521 - 1
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 66
"""A share is the polynomial's value at its point, big-endian."""


def split(secret: bytes, threshold: int, points: Sequence[int], entropy: Callable[[int], bytes]) -> dict[int, bytes]:
    """Share `secret` among `points`: any `threshold` shares give it back, fewer say nothing about it.

    `entropy(n)` returns n random bytes. Raises ValueError unless the secret is 32 bytes, the points are distinct
    nonzero field elements and 1 <= threshold <= len(points).
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError("a secret is 32 bytes")
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise ValueError("points must be distinct and from 1 up to the field's size")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold {threshold} is not between 1 and {len(points)} points")
    coefficients = [_uniform(entropy) for _ in range(threshold - 1)]  # the highest power first

    def share(point: int) -> bytes:
        value = 0
        for coefficient in [*coefficients, int.from_bytes(secret, "big")]:
            value = (value * point + coefficient) % PRIME
        return value.to_bytes(SHARE_BYTES, "big")

    return {point: share(point) for point in points}


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret that `shares` (point to share) were split from with `threshold`.

    Raises BadShare when there are fewer than `threshold`, when one is not a field element or has an impossible point,
    when those beyond the threshold are not on the same polynomial, or when the secret is not 32 bytes; ValueError when
    `threshold` is below 1. With exactly `threshold` shares an altered one gives a wrong secret or one out of range.
    """
    if threshold < 1:
        raise ValueError(f"threshold {threshold} is below 1")
    if len(shares) < threshold:
        raise BadShare(f"{len(shares)} shares are fewer than the threshold {threshold}")
    values = [(point, _field_element(point, share)) for point, share in shares.items()]
    basis, rest = values[:threshold], values[threshold:]
    weighted = []  # (x, y / product of (x - every other x)): the polynomial in Lagrange's form
    for x, y in basis:
        divisor = 1
        for other, _ in basis:
            if other != x:
                divisor = divisor * (x - other) % PRIME
        weighted.append((x, y * pow(divisor, -1, PRIME) % PRIME))
    for x, y in rest:
        if _evaluate(weighted, x) != y:
            raise BadShare(f"the share at point {x} is not on the polynomial of the first {threshold}")
    secret = _evaluate(weighted, 0)
    if secret >> (8 * SECRET_BYTES):
        raise BadShare("the shares give a secret out of range")
    return secret.to_bytes(SECRET_BYTES, "big")


def _evaluate(weighted: list[tuple[int, int]], at: int) -> int:
    """Sum of weight * product of (at - every other x), built up term by term so that nothing is inverted."""
    total, product = 0, 1
    for x, weight in weighted:
        total = (total * (at - x) + weight * product) % PRIME
        product = product * (at - x) % PRIME
    return total


def _field_element(point: int, share: bytes) -> int:
    if not 0 < point < PRIME:
        raise BadShare(f"no share can be at point {point}")
    if len(share) != SHARE_BYTES:
        raise BadShare(f"the share at point {point} has {len(share)} bytes, not {SHARE_BYTES}")
    value = int.from_bytes(share, "big")
    if value >= PRIME:
        raise BadShare(f"the share at point {point} is outside the field")
    return value


def _uniform(entropy: Callable[[int], bytes]) -> int:
    while True:  # 521 random bits are below the prime unless all are ones
        value = int.from_bytes(entropy(SHARE_BYTES), "big") & PRIME
        if value != PRIME:
            return value
