"""A dishonest aggregator plans with other algorithms than a silo wants, weaker ones or ones that do not exist."""

from collections.abc import Callable
from typing import Any

import pytest

from crypto.errors import PlanError
from crypto.names import Suite
from support.plans import signing_keys

pytestmark = pytest.mark.clause("2.1.2", "2.1.3", "2.3.3", "3.0.1")


@pytest.mark.parametrize(("wanted", "planned"), [(Suite.FIPS, Suite.DEFAULT), (Suite.DEFAULT, Suite.FIPS)])
def test_the_other_suite(wanted: Suite, planned: Suite, approach: Callable[..., Any]) -> None:
    silo = approach(suite=wanted)
    silo.agreed.suite = planned
    for member, key in zip(silo.agreed.roster, signing_keys(5, planned).values(), strict=True):
        member.signing_key = key.public_bytes
    silo.refuses(silo.agreed, PlanError, f"suite {planned}", f"accepts {wanted}")


def test_the_other_suite_with_this_ones_keys(approach: Callable[..., Any]) -> None:
    silo = approach(suite=Suite.FIPS)
    silo.agreed.suite = Suite.DEFAULT
    silo.refuses(silo.agreed, PlanError, "roster silo-000")


def test_a_suite_of_its_own_choice_of_parts(approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.agreed.suite = "mlkem512-x25519-ed25519-aes128-sha256"
    silo.refuses(silo.agreed, PlanError, "suite", "unknown")
    silo.agreed.suite = Suite.DEFAULT
    silo.accepts(silo.agreed)
