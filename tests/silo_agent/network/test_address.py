"""host:port is taken apart in one place, and nothing else passes for it."""

import pytest

from crypto.errors import ConfigError
from silo_agent.network.address import join_address, split_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("aggregator.example.org:443", ("aggregator.example.org", 443)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fd00::1]:65535", ("fd00::1", 65535)),
    ],
)
def test_an_address_splits_and_joins(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert join_address(*parts) == address


@pytest.mark.parametrize(
    "address", ["", "a", "a:", ":443", "a:0", "a:65536", "a:+1", "fd00::1:443", "http://a:443", "a:1 "]
)
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not host:port"):
        split_address(address)
