"""Shamir against exact rational Lagrange interpolation and polynomials written out in powers."""

import random
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import BadShare
from crypto.primitives.shamir import SHARE_BYTES, combine, split

P = 2**521 - 1


def entropy(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def polynomial(coefficients: list[int], x: int) -> int:
    return sum(c * pow(x, power, P) for power, c in enumerate(coefficients)) % P


def interpolate(shares: dict[int, int], at: int) -> int:
    total = 0
    for xi, yi in shares.items():
        weight = Fraction(1)
        for xj in shares:
            weight *= 1 if xj == xi else Fraction(at - xj, xi - xj)
        total += yi * weight.numerator * pow(weight.denominator, P - 2, P)
    return total % P


def numbers(shares: dict[int, bytes]) -> dict[int, int]:
    return {x: int.from_bytes(y, "big") for x, y in shares.items()}


def raw(shares: dict[int, int]) -> dict[int, bytes]:
    return {x: y.to_bytes(SHARE_BYTES, "big") for x, y in shares.items()}


secrets_ = st.binary(min_size=32, max_size=32)
sizes = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(secrets_, sizes, st.integers(0, 2**32), st.data())
def test_any_threshold_shares_give_the_secret(
    secret: bytes, size: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    n, t = size
    points = data.draw(st.lists(st.integers(1, 300) | st.integers(P - 9, P - 1), min_size=n, max_size=n, unique=True))
    shares = split(secret, t, points, entropy(seed))
    assert list(shares) == points
    assert all(len(share) == SHARE_BYTES for share in shares.values())
    some = dict(data.draw(st.permutations(list(shares.items())))[: data.draw(st.integers(t, n))])
    assert combine(some, t) == secret
    assert interpolate(numbers(dict(list(some.items())[:t])), 0) == int.from_bytes(secret, "big")


@given(secrets_, st.lists(st.integers(0, P - 1), max_size=6), st.integers(1, 3))
def test_shares_of_a_written_out_polynomial_combine(secret: bytes, higher: list[int], extra: int) -> None:
    t = 1 + len(higher)
    coefficients = [int.from_bytes(secret, "big"), *higher]
    shares = {x: polynomial(coefficients, x) for x in range(2, 2 + t + extra)}
    assert combine(raw(shares), t) == secret


@given(secrets_, st.integers(1, 6), st.integers(0, 2**32))
def test_coefficients_are_the_entropy_and_all_of_it(secret: bytes, t: int, seed: int) -> None:
    drawn: list[int] = []

    def recording(size: int) -> bytes:
        data = entropy(seed + len(drawn))(size)
        drawn.append(int.from_bytes(data, "big") % 2**521)
        return data

    shares = split(secret, t, range(1, t + 2), recording)
    assert len(drawn) == t - 1
    fit = [polynomial([int.from_bytes(secret, "big"), *order], 7) for order in (drawn, drawn[::-1])]
    assert interpolate(numbers(shares), 7) in fit  # in whichever order they were drawn


def test_the_one_value_outside_the_field_is_drawn_again() -> None:
    draws = [b"\xff" * 66, (P - 1).to_bytes(66, "big")]
    shares = split(bytes(32), 2, [1, 2], lambda size: draws.pop(0)[:size])
    assert not draws
    assert numbers(shares) == {1: P - 1, 2: P - 2}


@given(secrets_, secrets_, st.integers(2, 8), st.integers(0, 2**32))
def test_fewer_shares_fit_every_secret(secret: bytes, other: bytes, t: int, seed: int) -> None:
    known = numbers(split(secret, t, range(1, t + 1), entropy(seed)))
    del known[t]
    forged = interpolate({0: int.from_bytes(other, "big")} | known, t)
    assert combine(raw(known | {t: forged}), t) == other


@given(sizes.filter(lambda s: s[1] < s[0]), st.integers(0, 2**32), st.data())
def test_an_altered_share_beyond_the_threshold_is_noticed(
    size: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    n, t = size
    shares = numbers(split(bytes(range(32)), t, range(1, n + 1), entropy(seed)))
    victim = data.draw(st.integers(1, n))
    shares[victim] = (shares[victim] + data.draw(st.integers(1, P - 1))) % P
    with pytest.raises(BadShare):
        combine(raw(shares), t)


def test_swapped_shares_are_noticed() -> None:
    shares = split(bytes(range(32)), 3, [1, 2, 3, 4], entropy(5))
    shares[1], shares[4] = shares[4], shares[1]
    with pytest.raises(BadShare, match="not on the polynomial"):
        combine(shares, 3)


@settings(deadline=None, max_examples=3)
@given(secrets_)
def test_the_largest_cohort(secret: bytes) -> None:
    shares = split(secret, 134, range(1, 201), entropy(1))
    assert combine(shares, 134) == secret
    assert combine(dict(list(shares.items())[66:]), 134) == secret
    bad = shares | {200: shares[199]}
    with pytest.raises(BadShare, match="point 200"):
        combine(bad, 134)


def test_shares_outside_the_rules_are_refused() -> None:
    shares = split(bytes(range(32)), 2, [1, 2, 3], entropy(2))
    wrong = [
        ({1: shares[1]}, "fewer"),
        ({}, "fewer"),
        (shares | {3: shares[3][1:]}, "65 bytes"),
        (shares | {3: b"\x00" + shares[3]}, "67 bytes"),
        (shares | {3: P.to_bytes(66, "big")}, "outside the field"),
        (shares | {3: b"\xff" * 66}, "outside the field"),
        (shares | {0: shares[3]}, "no share can be at point 0"),
        (shares | {-1: shares[3]}, "no share can be at point -1"),
        (shares | {P: shares[3]}, "no share can be at point"),
    ]
    for case, message in wrong:
        with pytest.raises(BadShare, match=message):
            combine(case, 2)


def test_the_largest_field_element_is_a_share() -> None:
    slope = P - 2  # 1 + slope * 1 = P - 1
    assert combine(raw({1: P - 1, 2: (1 + 2 * slope) % P}), 2) == (1).to_bytes(32, "big")


def test_a_secret_has_256_bits() -> None:
    assert combine(raw({4: 2**256 - 1}), 1) == b"\xff" * 32
    with pytest.raises(BadShare, match="out of range"):
        combine(raw({4: 2**256}), 1)


def test_a_callers_mistakes() -> None:
    def never(size: int) -> bytes:
        raise AssertionError

    for secret, threshold, points in [
        (bytes(31), 2, [1, 2]),
        (bytes(33), 2, [1, 2]),
        (bytes(32), 0, [1, 2]),
        (bytes(32), 3, [1, 2]),
        (bytes(32), 2, [1, 1]),
        (bytes(32), 2, [0, 1]),
        (bytes(32), 2, [1, P]),
        (bytes(32), 0, []),
    ]:
        with pytest.raises(ValueError, match=r"secret|threshold|points"):
            split(secret, threshold, points, never)
    with pytest.raises(ValueError, match="below 1"):
        combine({}, 0)


def test_messages_do_not_show_shares() -> None:
    shares = split(b"\xab" * 32, 2, [1, 2, 3], entropy(3))
    with pytest.raises(BadShare) as caught:
        combine(shares | {3: shares[2]}, 2)
    text = str(caught.value)
    assert not any(share.hex() in text or str(int.from_bytes(share, "big")) in text for share in shares.values())
