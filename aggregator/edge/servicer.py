"""What an RPC is at the aggregator: a call of the round driver or the identity service. No rule lives here."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import grpc

from aggregator.edge.callers import Callers, Context, Requests, certificate
from aggregator.edge.listener import Current, Listener
from aggregator.rounds.round_driver import RoundDriver
from aggregator.silos.admission import Admit
from aggregator.silos.identity_service import IdentityService
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import MalformedMessage, UnexpectedMessage
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


# No handler has (de)serialisers: crypto/encoding/wire refuses what protobuf's own parser would let pass. And each takes
# a stream of requests, though all but an upload have one: the library would read that one before it says who calls.


class OtherVersions(grpc.GenericRpcHandler):
    """Asked before the services: refuses any call of an agent that speaks none of this program's versions (7.15)."""

    def service(self, call: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
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
            "Next": grpc.stream_unary_rpc_method_handler(self.next),
            "Advance": grpc.stream_unary_rpc_method_handler(self.advance),
            "Decline": grpc.stream_unary_rpc_method_handler(self.decline),
            "Withdraw": grpc.stream_unary_rpc_method_handler(self.withdraw),
        }
        words: dict[str, Any] = {
            "Held": grpc.stream_unary_rpc_method_handler(self.held),
            "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "Committed": grpc.stream_stream_rpc_method_handler(self.committed),
            "Results": grpc.stream_unary_rpc_method_handler(self.results),
            "File": grpc.stream_stream_rpc_method_handler(self.file),
        }
        return (
            grpc.method_handlers_generic_handler(ROUNDS, rounds),
            grpc.method_handlers_generic_handler(WORDS, words),
        )

    async def withdraw(self, requests: Requests, context: Context) -> bytes:
        """Answer the RPC Rounds.Withdraw."""

        async def answer(silo: str, request: bytes) -> bytes:
            asked = decode(round_pb2.WithdrawRequest, request, MESSAGE_LIMIT, party=silo)
            if (kept := self._driver.withdrawals) is None:
                raise UnexpectedMessage("withdraws where nothing is kept", party=silo)
            signed = await asyncio.to_thread(kept.take, silo, asked.round, asked.signature)
            signatures = [round_pb2.SiloSignature(silo=name, signature=signature) for name, signature in signed]
            return encode(round_pb2.WithdrawReply(signatures=signatures))

        return await self._callers.answered(requests, answer, context)

    async def next(self, requests: Requests, context: Context) -> bytes:
        """Answer the RPC Rounds.Next."""

        async def answer(silo: str, request: bytes) -> bytes:
            decode(round_pb2.NextRequest, request, MESSAGE_LIMIT)
            return await self._driver.next(silo)

        return await self._callers.answered(requests, answer, context)

    async def advance(self, requests: Requests, context: Context) -> bytes:
        """Answer the RPC Rounds.Advance."""
        return await self._callers.answered(requests, self._driver.advance, context)

    async def decline(self, requests: Requests, context: Context) -> bytes:
        """Answer the RPC Rounds.Decline."""

        async def answer(silo: str, request: bytes) -> bytes:
            message = decode(round_pb2.DeclineRequest, request, MESSAGE_LIMIT, party=silo)
            if not REASON.fullmatch(message.reason):  # it goes into the log
                raise MalformedMessage("declines for what is no reason", party=silo)
            await self._driver.decline(silo, message.round, message.reason)
            return encode(round_pb2.DeclineReply())

        return await self._callers.answered(requests, answer, context)

    async def held(self, requests: Requests, context: Context) -> bytes:
        """Answer the RPC Words.Held."""

        async def answer(silo: str, request: bytes) -> bytes:
            return await self._driver.held(silo, decode(words_pb2.HeldRequest, request, MESSAGE_LIMIT).round)

        return await self._callers.answered(requests, answer, context)

    async def upload(self, requests: Requests, context: Context) -> bytes:
        """Answer the RPC Words.Upload."""
        silo = await self._callers.name(context)
        async with self._callers.call(silo, context):
            return await self._driver.upload(silo, self._callers.uploaded(silo, requests, context))

    async def committed(self, requests: Requests, context: Context) -> AsyncIterator[bytes]:
        """Answer the RPC Words.Committed."""

        def chunks(silo: str, request: bytes) -> AsyncIterator[bytes]:
            message = decode(words_pb2.CommittedRequest, request, MESSAGE_LIMIT)
            return self._driver.committed(silo, message.round, message.index, message.offset)

        async for chunk in self._callers.streamed(requests, chunks, context):
            yield chunk

    async def results(self, requests: Requests, context: Context) -> bytes:
        """Answer the RPC Words.Results."""

        async def answer(silo: str, request: bytes) -> bytes:
            decode(words_pb2.ResultsRequest, request, MESSAGE_LIMIT)
            return self._driver.files.results.listed(silo)

        return await self._callers.answered(requests, answer, context)

    async def file(self, requests: Requests, context: Context) -> AsyncIterator[bytes]:
        """Answer the RPC Words.File."""

        def pieces(silo: str, request: bytes) -> AsyncIterator[bytes]:
            message = decode(words_pb2.FileRequest, request, MESSAGE_LIMIT)
            kind = message.WhichOneof("file") or ""
            return self._driver.files.pieces(silo, kind, getattr(message, kind) if kind else b"", message.offset)

        async for piece in self._callers.streamed(requests, pieces, context):
            yield piece


class IdentityServicer:
    """Identity: one method an RPC. Each may wait for the disk, in threads of their own."""

    def __init__(self, identity: IdentityService, callers: Callers) -> None:
        self._identity = identity
        self._callers = callers
        self._threads = ThreadPoolExecutor(4, "identity")

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server needs to call these methods."""
        of_strangers = {"Enroll": self._identity.enroll, "Announce": self._identity.announce}
        of_silos = {
            "Renew": self._identity.renew,
            "Roster": self._identity.roster,
            "SignRoster": self._identity.sign_roster,
            "Status": self._identity.status,
        }
        identity: dict[str, Any] = {
            **{
                name: grpc.stream_unary_rpc_method_handler(self._of_stranger(work))
                for name, work in of_strangers.items()
            },
            **{name: grpc.stream_unary_rpc_method_handler(self._of_silo(work)) for name, work in of_silos.items()},
        }
        return (grpc.method_handlers_generic_handler(IDENTITY, identity),)

    def _of_stranger(self, work: Callable[[bytes, bytes], bytes]) -> Callable[[Requests, Context], Awaitable[bytes]]:
        """Return the RPC that answers whoever calls with `work(certificate, request)`, which says who is heard."""

        async def method(requests: Requests, context: Context) -> bytes:
            caller = await self._callers.name_to_enrol(context)
            async with self._callers.call(caller, context):
                await self._callers.pace(caller, context)
                request = await self._callers.request(caller, requests, context)
                return await self._in_thread(work, certificate(context), request)

        return method

    def _of_silo(self, work: Callable[[str, bytes], bytes]) -> Callable[[Requests, Context], Awaitable[bytes]]:
        """Return the RPC that answers an enrolled silo with `work(silo, request)`."""

        async def method(requests: Requests, context: Context) -> bytes:
            await self._callers.pace(await self._callers.name(context), context)
            return await self._callers.answered(requests, partial(self._in_thread, work), context)

        return method

    async def _in_thread(self, work: Callable[[Any, bytes], bytes], caller: Any, request: bytes) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, caller, request)
