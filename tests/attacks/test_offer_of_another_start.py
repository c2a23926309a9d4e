"""A dishonest aggregator offers a round that the plan does not have, or one that starts from a keep mask of its own."""

from collections.abc import Callable
from typing import Any

import pytest

from crypto.errors import UnexpectedMessage

pytestmark = pytest.mark.clause("2.2.2")


@pytest.mark.parametrize("offer", [{"index": 1}, {"index": 1 << 31}, {"input_": bytes(32)}, {"input_": b"x"}])
def test_refused_before_anything_is_computed(offer: dict[str, Any], approach: Callable[..., Any]) -> None:
    silo = approach()
    silo.refuses(silo.agreed, UnexpectedMessage, "aggregator: offers", **offer)
