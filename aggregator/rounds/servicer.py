"""What an RPC is at the aggregator: a call of the round driver or the identity service. No rule lives here."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import grpc

from aggregator.rounds.callers import Callers, Context, certificate
from aggregator.rounds.listener import Current, Listener
from aggregator.rounds.round_driver import RoundDriver
from aggregator.silos.admission import Admit
from aggregator.silos.identity_service import IdentityService
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import MalformedMessage
from silo_agent.network.services import IDENTITY, ROUNDS, SPOKEN, WORDS, said_to_speak
from sparsilo.v1 import round_pb2, words_pb2

_log = logging.getLogger(__name__)

REASON: Final = re.compile("[a-z_]{1,40}")
"""An error's code."""


async def serve(
    driver: RoundDriver, admit: Admit, address: str, current: Current, identity: IdentityService | None = None
) -> tuple[Listener, int]:
    """Answer silos on `address`; return what listens there, and its port. Without an `identity`, nobody can enrol.

    Raises ConfigError where the address cannot be listened on.
    """
    callers = Callers(admit, driver.present, driver.traffic, driver.metrics)
    handlers = (OtherVersions(), *RoundServicer(driver, callers).handlers())
    if identity is not None:
        handlers += IdentityServicer(identity, callers).handlers()
    listener = Listener(handlers, address, current)
    return listener, await listener.start()


# No handler has (de)serialisers: crypto/encoding/wire refuses what protobuf's own parser would let pass.


class OtherVersions(grpc.GenericRpcHandler):
    """Asked before the services: refuses any call of an agent that speaks none of this program's versions (7.15)."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what refuses the call; None where the services are to answer it."""
        told = dict(call.invocation_metadata or ())
        spoken = said_to_speak(str(told.get("user-agent", "")))
        if {*spoken} & {*SPOKEN}:
            return None

        async def refuse(_request: bytes, context: Context) -> bytes:
            ours = f"the aggregator is sparsilo {version('sparsilo')} and speaks {', '.join(SPOKEN)}"
            problem = f"{ours}, this agent {', '.join(spoken)}: install one release at both"
            _log.warning("a caller is refused: %s", problem)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, problem)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(refuse)


class RoundServicer:
    """Rounds and Words: one method an RPC."""

    def __init__(self, driver: RoundDriver, callers: Callers) -> None:
        self._driver = driver
        self._callers = callers

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server needs to call these methods."""
        rounds: dict[str, Any] = {
            "Next": grpc.unary_unary_rpc_method_handler(self.next),
            "Advance": grpc.unary_unary_rpc_method_handler(self.advance),
            "Decline": grpc.unary_unary_rpc_method_handler(self.decline),
        }
        words: dict[str, Any] = {
            "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "Committed": grpc.unary_stream_rpc_method_handler(self.committed),
            "File": grpc.unary_stream_rpc_method_handler(self.file),
        }
        return (
            grpc.method_handlers_generic_handler(ROUNDS, rounds),
            grpc.method_handlers_generic_handler(WORDS, words),
        )

    async def next(self, request: bytes, context: Context) -> bytes:
        """Rounds.Next."""

        async def answer(silo: str) -> bytes:
            decode(round_pb2.NextRequest, request, MESSAGE_LIMIT)
            return await self._driver.next(silo)

        return await self._callers.answered(request, answer, context)

    async def advance(self, request: bytes, context: Context) -> bytes:
        """Rounds.Advance."""
        return await self._callers.answered(request, lambda silo: self._driver.advance(silo, request), context)

    async def decline(self, request: bytes, context: Context) -> bytes:
        """Rounds.Decline."""

        async def answer(silo: str) -> bytes:
            message = decode(round_pb2.DeclineRequest, request, MESSAGE_LIMIT, party=silo)
            if not REASON.fullmatch(message.reason):  # it goes into the log
                raise MalformedMessage("declines for what is no reason", party=silo)
            await self._driver.decline(silo, message.round, message.reason)
            return encode(round_pb2.DeclineReply())

        return await self._callers.answered(request, answer, context)

    async def upload(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Words.Upload."""
        silo = await self._callers.name(context)

        async def chunks() -> AsyncIterator[bytes]:
            async for request in requests:
                await self._callers.name(context)  # its certificate may have ended since
                self._callers.traffic.count(silo, up=len(request))
                yield request

        return await self._callers.unless_refused(silo, lambda: self._driver.upload(silo, chunks()), context)

    async def committed(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Words.Committed."""

        def chunks(silo: str) -> AsyncIterator[bytes]:
            message = decode(words_pb2.CommittedRequest, request, MESSAGE_LIMIT)
            return self._driver.committed(silo, message.round, message.index)

        async for chunk in self._callers.streamed(request, chunks, context):
            yield chunk

    async def file(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Words.File."""

        def pieces(silo: str) -> AsyncIterator[bytes]:
            message = decode(words_pb2.FileRequest, request, MESSAGE_LIMIT)
            kind = message.WhichOneof("file") or ""
            return self._driver.files.pieces(silo, kind, getattr(message, kind) if kind else b"")

        async for piece in self._callers.streamed(request, pieces, context):
            yield piece


class IdentityServicer:
    """Identity: one method an RPC."""

    def __init__(self, identity: IdentityService, callers: Callers) -> None:
        self._identity = identity
        self._callers = callers

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server needs to call these methods."""
        identity: dict[str, Any] = {
            "Enroll": grpc.unary_unary_rpc_method_handler(self.enroll),
            "Announce": grpc.unary_unary_rpc_method_handler(self.announce),
            "Renew": grpc.unary_unary_rpc_method_handler(self._answering(self._identity.renew)),
            "Roster": grpc.unary_unary_rpc_method_handler(self._answering(self._identity.roster)),
            "SignRoster": grpc.unary_unary_rpc_method_handler(self._answering(self._identity.sign_roster)),
            "Status": grpc.unary_unary_rpc_method_handler(self._answering(self._identity.status)),
        }
        return (grpc.method_handlers_generic_handler(IDENTITY, identity),)

    async def enroll(self, request: bytes, context: Context) -> bytes:
        """Identity.Enroll: the one call that an invitation's certificate is good for."""
        enroll = partial(asyncio.to_thread, self._identity.enroll, certificate(context), request)
        return await self._callers.unless_refused("a silo that enrols", enroll, context)

    async def announce(self, request: bytes, context: Context) -> bytes:
        """Identity.Announce: what it says decides who is heard."""
        announce = partial(asyncio.to_thread, self._identity.announce, certificate(context), request)
        return await self._callers.unless_refused("a silo that announces a key", announce, context)

    def _answering(self, work: Callable[[str, bytes], bytes]) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """Return the RPC that answers an enrolled silo with `work(silo, request)`, which may use the disk."""

        async def method(request: bytes, context: Context) -> bytes:
            return await self._callers.answered(request, lambda silo: asyncio.to_thread(work, silo, request), context)

        return method
