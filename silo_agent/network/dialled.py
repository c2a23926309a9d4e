"""The connection of one short command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from crypto.identity import Certified
from silo_agent.host.metrics import unseen
from silo_agent.network.proxy import chosen_proxy
from silo_agent.network.transport import Transport

COMMAND_SECONDS: Final = 5.0
"""How long a command that a person waits for tries to connect."""


@contextmanager
def dialled(target: str, own: Certified, authority: bytes, proxy: str = "") -> Iterator[Transport]:
    """Yield a transport for one short command, with less patience. Raises ConfigError where the proxy is none."""
    chosen = chosen_proxy(proxy, target, os.environ)
    transport = Transport(target, own, authority, unseen(), proxy=chosen, reconnect_seconds=COMMAND_SECONDS)
    try:
        yield transport
    finally:
        transport.close()
