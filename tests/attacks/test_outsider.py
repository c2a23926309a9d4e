"""An outsider calls the aggregator under no silo's name, or under a silo's with a certificate of its own making."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attacks.stage import ZERO, Stage
from crypto.errors import ConnectionFailed, IdentityError, SparsiloError
from crypto.identity import Authority
from silo_agent.network.calls import Advance

pytestmark = pytest.mark.clause("7.1")


def assert_not_heard(caller: Any, error: type[SparsiloError]) -> None:
    for call in (caller.next, lambda: caller.perform(Advance(Stage().silos[ZERO].message()))):
        with pytest.raises(error) as refused:
            call()
        assert type(refused.value) is error


@pytest.mark.parametrize("name", ["silo-005", "aggregator"])
def test_who_is_of_no_roster(name: str, network: Any) -> None:
    assert_not_heard(network.caller(network.authority.issue(name)), IdentityError)


def test_who_has_its_certificate_from_another_authority(network: Any) -> None:
    theirs = Authority("theirs", datetime.now(UTC), timedelta(days=1))
    assert_not_heard(network.caller(theirs.issue(ZERO)), ConnectionFailed)
