"""Withdrawals: signed statements of a round's silos that they reveal no share in it, now or later (2.5.14, 2.5.15).

A sum opens with t shares of each survivor's self seed, and nobody but a silo in UNMASK reveals one. So a round from
which enough silos withdrew never opens, whatever the aggregator and the colluders have, do or kept.
"""

from collections.abc import Iterable
from typing import Final

from crypto.backends.backend_spec import backend_spec
from crypto.errors import BadSignature
from crypto.plan import Plan
from crypto.primitives.signing import SigningKey, verify
from crypto.secagg.round import threshold

WITHDRAWAL: Final = b"withdrawal"


def withdraw(key: SigningKey, round_digest: bytes) -> bytes:
    """Return a silo's signature that it withdraws from a round. What it promises must be on disk before."""
    return key.sign(WITHDRAWAL + round_digest, b"")


def enough(plan: Plan, silos: int) -> int | None:
    """Return how many of a round's silos must withdraw so that it never opens; None where a sum needs no shares.

    Of n silos all but these, and c colluders among these, may reveal shares: fewer than the threshold.
    """
    if not backend_spec(plan.backend).opens_with_shares:
        return None
    cohort = silos if plan.message.pruning.cohort_floor else 0  # where it is no cohort, its threshold is no less
    return silos - threshold(plan, cohort) + plan.message.colluders + 1


def withdrew(
    plan: Plan, round_digest: bytes, silos: Iterable[str], signatures: Iterable[tuple[str, bytes]]
) -> set[str]:
    """Return which of a round's silos signed that they withdraw from it, by the keys of its plan."""
    keys = {member.silo: member.signing_key for member in plan.message.roster if member.silo in set(silos)}
    withdrawn = set()
    for silo, signature in signatures:
        try:
            if silo in keys:
                verify(plan.suite, keys[silo], signature, WITHDRAWAL + round_digest, b"", party=silo)
                withdrawn.add(silo)
        except BadSignature:
            continue  # of whoever stored it; the others count
    return withdrawn
