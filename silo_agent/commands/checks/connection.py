"""Checks of the way to the aggregator, in the order in which a connection takes it."""

import os
from datetime import UTC, datetime
from typing import Final

from silo_agent.config import AgentConfig
from silo_agent.identity.own_certificate import connected
from silo_agent.network.proxy import NEVER, VARIABLES, Proxy, chosen_proxy, proxy_setting
from silo_agent.network.reachability import TlsFiles, clock_skew, connect, resolve, shake_hands
from sparsilo.v1 import identity_pb2

LAST_SECOND: Final = 253_402_300_799
"""The last second of the year 9999, after which datetime has none."""


class ConnectionChecks:
    """A method a check: it returns what there is to say, or raises the error that a round would end with.

    `proxy` comes before the others: they go through the proxy that it chooses.
    """

    def __init__(self, config: AgentConfig, now: datetime) -> None:
        self._config, self._now = config, now
        self._proxy: Proxy | None = None

    def proxy(self) -> str:
        """Say which proxy is dialled through, or why there is none."""
        setting = proxy_setting(self._config.proxy, self._config.proxy_file)
        self._proxy = proxy = chosen_proxy(setting, self._config.aggregator, os.environ)
        if proxy:
            return f"{proxy}, from {proxy.origin}{', with credentials' if proxy.credentials else ''}"
        if setting == NEVER:
            return "none: the config says so"
        if any(os.environ.get(name, "").strip() for name in VARIABLES):
            return f"none: no_proxy in the environment covers {self._config.aggregator}"
        return "none: neither config nor environment names one"

    def name_resolution(self) -> str:
        """Look up the aggregator's name, or the proxy's."""
        return resolve(self._config.aggregator, self._proxy)

    def connection(self) -> str:
        """Connect to the aggregator."""
        connect(self._config.aggregator, self._proxy).close()
        return f"{self._config.aggregator}: open{f' through {self._proxy}' if self._proxy else ''}"

    def handshake(self) -> str:
        """Check that both sides accept each other's certificate."""
        config = self._config
        files = TlsFiles(config.certificate, config.private_key, config.authority)
        return f"{config.aggregator}: {shake_hands(config.aggregator, self._proxy, files, self._now)}"

    def clock(self) -> str:
        """Compare this machine's clock with the aggregator's."""
        return clock_skew(self._aggregator_time)

    def _aggregator_time(self) -> datetime:
        with connected(self._config, self._now) as transport:
            reply = transport.identify("Status", identity_pb2.StatusRequest(), identity_pb2.StatusReply)
        return datetime.fromtimestamp(min(reply.unix_seconds, LAST_SECOND), UTC)
