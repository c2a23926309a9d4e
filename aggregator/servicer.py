"""The aggregator's edge: gRPC over mTLS. It names the caller, counts bytes, and turns errors into status codes; no
rule lives here.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from aggregator.round_driver import RoundDriver
from crypto.errors import MalformedMessage, ProtocolError, RoundAborted
from crypto.identity import Certified
from crypto.secagg.wire import MESSAGE_LIMIT, decode
from silo_agent.transport import OPTIONS, ROUNDS, WORDS
from sparsilo.v1 import round_pb2, words_pb2

Context = grpc.aio.ServicerContext[bytes, bytes]

_log = logging.getLogger(__name__)


async def serve(
    driver: RoundDriver, silos: frozenset[str], address: str, own: Certified, authority: bytes
) -> tuple[grpc.aio.Server, int]:
    """A started server and its port. Heard is only who has a certificate from `authority` for one of `silos`."""
    credentials = grpc.ssl_server_credentials(
        [(own.private_key, own.certificate)], root_certificates=authority, require_client_auth=True
    )
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(_handlers(Servicer(driver, silos)))
    port = server.add_secure_port(address, credentials)
    await server.start()
    return server, port


def _handlers(servicer: "Servicer") -> tuple[grpc.GenericRpcHandler, ...]:
    # No (de)serialisers: crypto/secagg/wire refuses what protobuf's own parser would let pass.
    rounds: dict[str, Any] = {
        "Next": grpc.unary_unary_rpc_method_handler(servicer.next),
        "Advance": grpc.unary_unary_rpc_method_handler(servicer.advance),
    }
    words: dict[str, Any] = {
        "Upload": grpc.stream_unary_rpc_method_handler(servicer.upload),
        "Committed": grpc.unary_stream_rpc_method_handler(servicer.committed),
        "File": grpc.unary_stream_rpc_method_handler(servicer.file),
    }
    return grpc.method_handlers_generic_handler(ROUNDS, rounds), grpc.method_handlers_generic_handler(WORDS, words)


class Servicer:
    """One method an RPC."""

    def __init__(self, driver: RoundDriver, silos: frozenset[str]) -> None:
        self._driver = driver
        self._silos = silos

    async def next(self, request: bytes, context: Context) -> bytes:
        """Rounds.Next."""
        silo = await self._silo(context)

        async def answer() -> bytes:
            decode(round_pb2.NextRequest, request, MESSAGE_LIMIT)
            return await self._driver.next(silo)

        return await self._answered(silo, request, answer, context)

    async def advance(self, request: bytes, context: Context) -> bytes:
        """Rounds.Advance."""
        silo = await self._silo(context)
        return await self._answered(silo, request, lambda: self._driver.advance(silo, request), context)

    async def upload(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Words.Upload."""
        silo = await self._silo(context)

        async def counted() -> AsyncIterator[bytes]:
            async for request in requests:
                self._count(silo, up=len(request))
                yield request

        return await self._answered(silo, b"", lambda: self._driver.upload(silo, counted()), context)

    async def committed(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Words.Committed."""

        def chunks(silo: str) -> AsyncIterator[bytes]:
            asked = decode(words_pb2.CommittedRequest, request, MESSAGE_LIMIT)
            return self._driver.committed(silo, asked.round, asked.index)

        async for chunk in self._streamed(request, chunks, context):
            yield chunk

    async def file(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Words.File."""

        def chunks(_: str) -> AsyncIterator[bytes]:
            asked = decode(words_pb2.FileRequest, request, MESSAGE_LIMIT)
            kind = asked.WhichOneof("file") or ""
            return self._driver.file(kind, getattr(asked, kind) if kind else b"")

        async for chunk in self._streamed(request, chunks, context):
            yield chunk

    async def _streamed(
        self, request: bytes, chunks: Callable[[str], AsyncIterator[bytes]], context: Context
    ) -> AsyncIterator[bytes]:
        silo = await self._silo(context)
        self._count(silo, up=len(request))
        try:
            async for chunk in chunks(silo):
                self._count(silo, down=len(chunk))
                yield chunk
        except (ProtocolError, RoundAborted) as error:
            await _refuse(context, silo, error)

    async def _answered(
        self, silo: str, request: bytes, answer: Callable[[], Awaitable[bytes]], context: Context
    ) -> bytes:
        self._count(silo, up=len(request))
        try:
            data = await answer()
        except (ProtocolError, RoundAborted) as error:
            await _refuse(context, silo, error)
            raise
        self._count(silo, down=len(data))
        return data

    async def _silo(self, context: Context) -> str:
        """The caller's name, from the certificate that TLS has verified."""
        names: list[bytes] = list(context.auth_context().get("x509_common_name", []))
        name = names[0].decode(errors="replace") if len(names) == 1 else ""
        if name not in self._silos:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{name!r} is not a silo of this run")
        return name

    def _count(self, silo: str, *, up: int = 0, down: int = 0) -> None:
        self._driver.count(silo, up=up, down=down)


async def _refuse(context: Any, silo: str, error: ProtocolError | RoundAborted) -> None:
    _log.warning("%s: refused: %s: %s", silo, error.code, error.message)
    match error:
        case MalformedMessage():
            status = grpc.StatusCode.INVALID_ARGUMENT
        case ProtocolError():
            status = grpc.StatusCode.FAILED_PRECONDITION
        case _:
            status = grpc.StatusCode.ABORTED
    await context.abort(status, f"{error.code}: {error.message}")
