"""The aggregator's edge: gRPC over mTLS. It names the caller, counts bytes, and turns errors into status codes; no
rule lives here.
"""

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from aggregator.rounds.round_driver import RoundDriver
from aggregator.silos.admission import Admit, NotAdmitted
from aggregator.silos.identity_service import IdentityService
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import ConfigError, IdentityError, MalformedMessage, ProtocolError, RoundAborted, SparsiloError
from crypto.identity import Certified
from silo_agent.network.services import IDENTITY, OPTIONS, ROUNDS, WORDS
from sparsilo.v1 import round_pb2, words_pb2

Context = grpc.aio.ServicerContext[bytes, bytes]

_log = logging.getLogger(__name__)


CONNECTION_AGE_MS: Final = 10 * 60 * 1000
"""A connection is made anew after this, by whichever certificate is then in force; calls under way are not cut off."""
REASON: Final = re.compile("[a-z_]{1,40}")
"""An error's code."""
ADMITTED_SECONDS: Final = 1.0
"""How long a caller that was admitted is admitted without looking again: an upload has thousands of messages."""

Current = Callable[[], tuple[Certified, bytes]]
"""The server's certificate, and the authorities (PEM) whose client certificates are accepted, at this moment."""


async def serve(
    driver: RoundDriver, admit: Admit, address: str, current: Current, identity: IdentityService | None = None
) -> tuple[grpc.aio.Server, int]:
    """A started server and its port. `current` is asked at every handshake: certificates rotate without a restart.
    Raises ConfigError where the address cannot be listened on.
    """

    def configuration() -> grpc.ServerCertificateConfiguration:
        own, authorities = current()
        return grpc.ssl_server_certificate_configuration([(own.private_key, own.certificate)], authorities)

    credentials = grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=True
    )
    server = grpc.aio.server(options=(*OPTIONS, ("grpc.max_connection_age_ms", CONNECTION_AGE_MS)))
    server.add_generic_rpc_handlers(_handlers(Servicer(driver, admit, identity), identity is not None))
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ConfigError(f"address: cannot listen on {address}", hint="another port, or one that is free") from None
    await server.start()
    return server, port


def _handlers(servicer: "Servicer", is_enrolling: bool) -> tuple[grpc.GenericRpcHandler, ...]:
    # No (de)serialisers: crypto/encoding/wire refuses what protobuf's own parser would let pass.
    rounds: dict[str, Any] = {
        "Next": grpc.unary_unary_rpc_method_handler(servicer.next),
        "Advance": grpc.unary_unary_rpc_method_handler(servicer.advance),
        "Decline": grpc.unary_unary_rpc_method_handler(servicer.decline),
    }
    words: dict[str, Any] = {
        "Upload": grpc.stream_unary_rpc_method_handler(servicer.upload),
        "Committed": grpc.unary_stream_rpc_method_handler(servicer.committed),
        "File": grpc.unary_stream_rpc_method_handler(servicer.file),
    }
    identity: dict[str, Any] = {
        "Enroll": grpc.unary_unary_rpc_method_handler(servicer.enroll),
        "Renew": grpc.unary_unary_rpc_method_handler(servicer.renew),
        "Roster": grpc.unary_unary_rpc_method_handler(servicer.roster),
        "SignRoster": grpc.unary_unary_rpc_method_handler(servicer.sign_roster),
        "Status": grpc.unary_unary_rpc_method_handler(servicer.status),
    }
    services = {ROUNDS: rounds, WORDS: words, **({IDENTITY: identity} if is_enrolling else {})}
    return tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())


class Servicer:
    """One method an RPC. Those of Identity are only called where there is an `identity`."""

    def __init__(self, driver: RoundDriver, admit: Admit, identity: IdentityService | None) -> None:
        self._driver = driver
        self._admit = admit
        self._identity: Any = identity
        self._admitted: dict[bytes, tuple[float, str]] = {}

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

    async def decline(self, request: bytes, context: Context) -> bytes:
        """Rounds.Decline."""
        silo = await self._silo(context)

        async def answer() -> bytes:
            asked = decode(round_pb2.DeclineRequest, request, MESSAGE_LIMIT, party=silo)
            if not REASON.fullmatch(asked.reason):  # it goes into the log
                raise MalformedMessage("declines for what is no reason", party=silo)
            await self._driver.decline(silo, asked.round, asked.reason)
            return encode(round_pb2.DeclineReply())

        return await self._answered(silo, request, answer, context)

    async def enroll(self, request: bytes, context: Context) -> bytes:
        """Identity.Enroll: the one call that an invitation's certificate is good for."""

        async def answer() -> bytes:
            reply: bytes = await asyncio.to_thread(self._identity.enroll, _certificate(context), request)
            return reply

        return await self._answered("a silo that enrols", b"", answer, context)

    async def renew(self, request: bytes, context: Context) -> bytes:
        """Identity.Renew."""
        return await self._identified("renew", request, context)

    async def roster(self, request: bytes, context: Context) -> bytes:
        """Identity.Roster."""
        return await self._identified("roster", request, context)

    async def sign_roster(self, request: bytes, context: Context) -> bytes:
        """Identity.SignRoster."""
        return await self._identified("sign_roster", request, context)

    async def status(self, request: bytes, context: Context) -> bytes:
        """Identity.Status."""
        return await self._identified("status", request, context)

    async def _identified(self, method: str, request: bytes, context: Context) -> bytes:
        silo = await self._silo(context)

        async def answer() -> bytes:
            reply: bytes = await asyncio.to_thread(getattr(self._identity, method), silo, request)
            return reply

        return await self._answered(silo, request, answer, context)

    async def upload(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Words.Upload."""
        silo = await self._silo(context)

        async def counted() -> AsyncIterator[bytes]:
            async for request in requests:
                await self._silo(context)
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
            return self._driver.files.pieces(kind, getattr(asked, kind) if kind else b"")

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
            await self._refuse(context, silo, error)

    async def _answered(
        self, silo: str, request: bytes, answer: Callable[[], Awaitable[bytes]], context: Context
    ) -> bytes:
        if request:
            self._count(silo, up=len(request))
        try:
            data = await answer()
        except SparsiloError as error:
            await self._refuse(context, silo, error)
            raise
        if request:
            self._count(silo, down=len(data))
        return data

    async def _silo(self, context: Context) -> str:
        """The caller's name, from the certificate that TLS has verified and that still holds."""
        pem = _certificate(context)
        now = asyncio.get_running_loop().time()
        since, silo = self._admitted.get(pem, (-math.inf, ""))
        if now - since > ADMITTED_SECONDS:
            try:
                silo = self._admit(pem)
            except NotAdmitted as error:
                self._admitted.pop(pem, None)
                await self._refuse(context, "a caller", error)
            self._admitted[pem] = now, silo
        self._driver.present.called(silo)
        return silo

    async def _refuse(self, context: Any, silo: str, error: SparsiloError) -> None:
        if isinstance(error, NotAdmitted):
            self._driver.metrics.refused_calls.labels(error.reason).inc()
        _log.warning("%s: refused: %s: %s", silo, error.code, error.message)
        match error:
            case IdentityError():
                status = grpc.StatusCode.UNAUTHENTICATED
            case MalformedMessage():
                status = grpc.StatusCode.INVALID_ARGUMENT
            case ProtocolError():
                status = grpc.StatusCode.FAILED_PRECONDITION
            case RoundAborted():
                status = grpc.StatusCode.ABORTED
            case _:
                status = grpc.StatusCode.INTERNAL
        said = str(error) if isinstance(error, IdentityError) else f"{error.code}: {error}"
        await context.abort(status, said)

    def _count(self, silo: str, *, up: int = 0, down: int = 0) -> None:
        self._driver.traffic.count(silo, up=up, down=down)


def _certificate(context: Context) -> bytes:
    shown: list[bytes] = list(context.auth_context().get("x509_pem_cert", []))
    return shown[0] if shown else b""
