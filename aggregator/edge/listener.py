"""The aggregator's port: TLS with the certificate of the moment, and bounds on whoever connects.

A server keeps the certificate that it was started with. The library can ask for another at every handshake, but then
dies where a connection closes before its handshake (docs/reports/grpc-dynamic-credentials.md). So a certificate is
changed by a second server on the same port: new connections go there, and the first one ends the calls that it has.
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from typing import Final

import grpc
import grpc.aio

from aggregator import limits
from crypto.errors import ConfigError, SparsiloError
from crypto.identity import Certified
from silo_agent.network.services import OPTIONS

LOOK_SECONDS: Final = 1.0
"""How often it is looked whether another certificate is in force."""

Current = Callable[[], tuple[Certified, bytes]]
"""The server's certificate, and the authorities (PEM) whose client certificates are accepted, at this moment."""

_log = logging.getLogger(__name__)


class Listener:
    """What listens on one address. Lives in one event loop, from `start` to `stop`."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], address: str, current: Current) -> None:
        self._handlers, self._address, self._current = tuple(handlers), address, current
        self._leaving: dict[asyncio.Task[None], grpc.aio.Server] = {}

    async def start(self) -> int:
        """Listen; return the port. Raises ConfigError where the address cannot be listened on, or somebody does."""
        _check_free(self._address)
        self._shown = self._current()
        self._server, port = await self._serving()
        self._address = f"{self._address.rpartition(':')[0]}:{port}"  # it may have been 0, for any
        self._looking = asyncio.create_task(self._keep_current())
        return port

    async def stop(self) -> None:
        """Listen no more, and cut off the calls under way."""
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        for server in (self._server, *self._leaving.values()):
            await server.stop(None)

    async def _keep_current(self) -> None:
        """Change the server whenever the certificate, or whom it accepts, has changed."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                current = await asyncio.to_thread(self._current)
                if current != self._shown:
                    await self._change(current)
            except SparsiloError as error:
                _log.warning("%s; the earlier certificate stays in use", error)

    async def _change(self, current: tuple[Certified, bytes]) -> None:
        old, self._shown = self._server, current
        self._server, _ = await self._serving()
        leaving = asyncio.create_task(old.stop(limits.LONGEST_CALL_SECONDS))
        self._leaving[leaving] = old
        leaving.add_done_callback(self._leaving.pop)
        _log.info("%s: a new certificate", self._address)

    async def _serving(self) -> tuple[grpc.aio.Server, int]:
        """Return a server that shows the certificate of the moment, and its port."""
        own, authorities = self._shown
        server = grpc.aio.server(options=(*OPTIONS, *_bounds()))
        server.add_generic_rpc_handlers(self._handlers)
        pair = (own.private_key, own.certificate)
        credentials = grpc.ssl_server_credentials([pair], authorities, require_client_auth=True)
        try:
            port = server.add_secure_port(self._address, credentials)
        except RuntimeError:
            raise _cannot_listen(self._address) from None
        await server.start()
        return server, port


def _bounds() -> tuple[tuple[str, int], ...]:
    """Return the options of a server by which whoever connects is bounded."""
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    return (
        ("grpc.so_reuseport", 1),  # for the server that takes this one's place
        ("grpc.max_allowed_incoming_connections", min(limits.MOST_CONNECTIONS, descriptors // 4)),
        ("grpc.server_handshake_timeout_ms", limits.HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", limits.IDLE_SECONDS * 1000),
        ("grpc.max_connection_age_ms", limits.CONNECTION_SECONDS * 1000),
        ("grpc.max_connection_age_grace_ms", limits.LONGEST_CALL_SECONDS * 1000),
        ("grpc.max_concurrent_streams", limits.MOST_CALLS),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.LEAST_PING_SECONDS * 1000),
    )


def _check_free(address: str) -> None:
    """Two servers with SO_REUSEPORT share a port, and each gets some of the calls: find another one out before.

    Raises ConfigError.
    """
    host, _, port = address.rpartition(":")
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in addresses:
            with socket.socket(family, kind, protocol) as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind(where)
    except (OSError, ValueError):
        raise _cannot_listen(address) from None


def _cannot_listen(address: str) -> ConfigError:
    return ConfigError(f"address: cannot listen on {address}", hint="another port, or one that is free")
