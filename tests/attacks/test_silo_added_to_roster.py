"""A dishonest aggregator adds a silo of its own to the roster, or in one's place, so that it is hidden among nobody."""

from collections.abc import Callable
from typing import Any

import pytest

from crypto.errors import IdentityError
from crypto.names import Suite
from crypto.primitives.signing import SigningKey

pytestmark = pytest.mark.clause("2.3.1")

OWN = SigningKey.generate(Suite.DEFAULT).public_bytes
"""The attacker's."""


def test_one_silo_more(approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.agreed.roster.add(silo="silo-005", signing_key=OWN)
    silo.agreed.threshold = silo.agreed.least_survivors = 4
    silo.refuses(silo.agreed, IdentityError, "roster", "at silo-005")


def test_its_key_for_another_silos(approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.agreed.roster[0].signing_key = OWN
    silo.refuses(silo.agreed, IdentityError, "roster", "at silo-000")


def test_its_name_for_another_silos(approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.agreed.roster[4].silo = "silo-444"
    silo.refuses(silo.agreed, IdentityError, "roster", "at silo-004, silo-444")
