"""Addresses of the form host:port, as config files, invitations and proxies' URLs have them."""

import re
from typing import Final

from crypto.errors import ConfigError

HOST_AND_PORT: Final = r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+):([0-9]{1,5})"
"""A regular expression: a name, an IPv4 address or an IPv6 address in brackets; then the port."""
_ADDRESS: Final = re.compile(HOST_AND_PORT)


def split_address(address: str) -> tuple[str, int]:
    """Return host, without brackets, and port of the aggregator's address. Raises ConfigError."""
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not 0 < int(parts[2]) < 1 << 16:
        raise ConfigError(f"aggregator: {address!r} is not host:port", hint="such as aggregator.example.org:443")
    return parts[1].strip("[]"), int(parts[2])


def join_address(host: str, port: int) -> str:
    """Return host:port, as a URL has it: an IPv6 address gets brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
