"""Whoever calls: named by the certificate that TLS has verified, counted, and told errors as status codes."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final, NoReturn

import grpc
import grpc.aio

from aggregator import limits
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.present_silos import PresentSilos
from aggregator.rounds.traffic import CountedTraffic
from aggregator.silos.admission import Admit, NotAdmitted
from crypto.errors import IdentityError, MalformedMessage, ProtocolError, RoundAborted, SparsiloError
from crypto.identity import read_peer

Context = grpc.aio.ServicerContext[bytes, bytes]
Requests = AsyncIterator[bytes]
"""The messages of a call as they arrive. A call with one message has it here too: nothing is read before it counts."""

ADMITTED_SECONDS: Final = 1.0
"""How long a caller that was admitted is admitted without looking again: an upload has thousands of messages."""
OWN_FAULT: Final = "the aggregator cannot answer at present"
"""All that callers hear of what is wrong at the aggregator. Its log says what."""

_log = logging.getLogger(__name__)


class Callers:
    """Names, counts and refuses whoever calls."""

    def __init__(
        self, admit: Admit, present: PresentSilos, traffic: CountedTraffic, metrics: AggregatorMetrics
    ) -> None:
        self.traffic = traffic
        self._admit = admit
        self._present = present
        self._metrics = metrics
        self._admitting = ThreadPoolExecutor(1, "admission")  # its own: a locked file keeps nothing else waiting
        self._admitted: dict[bytes, tuple[float, str]] = {}
        self._under_way: Counter[str] = Counter()
        self._this_minute = ThisMinute()

    async def name(self, context: Context) -> str:
        """Return the caller's name. Ends the call where its certificate does not hold, or not any more."""
        pem, loop = certificate(context), asyncio.get_running_loop()
        since, silo = self._admitted.get(pem, (-math.inf, ""))
        if loop.time() - since > ADMITTED_SECONDS:
            now = loop.time()
            try:
                silo = await loop.run_in_executor(self._admitting, self._admit, pem)
            except SparsiloError as error:
                self._admitted.pop(pem, None)
                await self._refuse(context, stranger(context), error)
            # One a silo, however many certificates it has had issued for its key.
            self._admitted = {other: seen for other, seen in self._admitted.items() if seen[1] != silo}
            self._admitted[pem] = now, silo
        self._present.called(silo)
        return silo

    async def name_to_enrol(self, context: Context) -> str:
        """Return what a caller is called that need not be enrolled: by the name on its certificate, and as no silo."""
        try:
            return f"{read_peer(certificate(context)).name}, to be enrolled"
        except IdentityError as error:
            await self._refuse(context, stranger(context), error)

    async def answered(
        self, requests: Requests, answer: Callable[[str, bytes], Awaitable[bytes]], context: Context
    ) -> bytes:
        """Return what `answer` says to a silo's request, and count both.

        Neither counts where the request is empty: it only asks what is new, as Next does.
        """
        silo = await self.name(context)
        async with self.call(silo, context):
            request = await self.request(silo, requests, context)
            self.traffic.count(silo, up=len(request))
            data = await answer(silo, request)
            if request:
                self.traffic.count(silo, down=len(data))
            return data

    async def streamed(
        self, requests: Requests, chunks: Callable[[str, bytes], AsyncIterator[bytes]], context: Context
    ) -> AsyncIterator[bytes]:
        """Yield what `chunks` gives a silo for its request, and count request and chunks."""
        silo, loop = await self.name(context), asyncio.get_running_loop()
        async with self.call(silo, context):
            request = await self.request(silo, requests, context)
            self.traffic.count(silo, up=len(request))
            async for chunk in chunks(silo, request):
                self.traffic.count(silo, down=len(chunk))
                unread = loop.call_later(limits.UNREAD_SECONDS, self._warn, silo, "does not read what it asked for")
                try:
                    yield chunk
                finally:
                    unread.cancel()

    async def uploaded(self, silo: str, requests: Requests, context: Context) -> AsyncIterator[bytes]:
        """Yield the messages of an upload, and count them."""
        named = monotonic()
        while (message := await self._next(silo, requests, context)) is not None:
            if monotonic() - named > ADMITTED_SECONDS:
                await self.name(context)  # its certificate may have ended since
                named = monotonic()
            self.traffic.count(silo, up=len(message))
            yield message

    async def request(self, caller: str, requests: Requests, context: Context) -> bytes:
        """Return the one message of a call. Raises MalformedMessage where there is none."""
        if (request := await self._next(caller, requests, context)) is None:
            raise MalformedMessage("asks for nothing", party=caller)
        return request

    async def pace(self, caller: str, context: Context) -> None:
        """Count a call of Identity. Ends it where the caller has made too many in this minute."""
        if self._this_minute.one_more(caller, "identity") > limits.IDENTITY_CALLS_A_MINUTE:
            await self._exhausted(context, caller, "calls Identity too often")

    @asynccontextmanager
    async def call(self, caller: str, context: Context) -> AsyncIterator[None]:
        """Count a call while it lasts. Ends it where there are too many, and with its status code where it fails."""
        if self._this_minute.one_more(caller, "calls") == limits.MANY_CALLS_A_MINUTE:
            self._warn(caller, f"has called {limits.MANY_CALLS_A_MINUTE} times within a minute")
        if self._under_way[caller] >= limits.MOST_CALLS:
            await self._exhausted(context, caller, f"has {limits.MOST_CALLS} calls under way")
        self._under_way[caller] += 1
        try:
            yield
        except SparsiloError as error:
            await self._refuse(context, caller, error)
        except grpc.aio.BaseError:  # the call has ended
            raise
        except Exception:  # noqa: BLE001 - the library would tell the caller what it says
            _log.exception("%s: a call failed", caller)
            await context.abort(grpc.StatusCode.INTERNAL, OWN_FAULT)
        finally:
            self._under_way[caller] -= 1

    async def _next(self, caller: str, requests: Requests, context: Context) -> bytes | None:
        """Return the next message; None where there is no more. Ends the call where it takes too long."""
        try:
            async with asyncio.timeout(limits.REQUEST_SECONDS):
                return await anext(requests, None)
        except TimeoutError:
            await self._exhausted(context, caller, "keeps a request waiting")

    async def _exhausted(self, context: Context, caller: str, why: str) -> NoReturn:
        self._warn(caller, why)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
        raise AssertionError("abort raises")

    async def _refuse(self, context: Context, caller: str, error: SparsiloError) -> NoReturn:
        if isinstance(error, NotAdmitted):
            self._metrics.refused_calls.labels(error.reason).inc()
        self._warn(caller, f"refused: {error.code}: {error.message}")
        details = f"{error.code}: {error}"
        match error:
            case IdentityError():
                status, details = grpc.StatusCode.UNAUTHENTICATED, str(error)
            case MalformedMessage():
                status = grpc.StatusCode.INVALID_ARGUMENT
            case ProtocolError():
                status = grpc.StatusCode.FAILED_PRECONDITION
            case RoundAborted():
                status = grpc.StatusCode.ABORTED
            case _:
                status, details = grpc.StatusCode.INTERNAL, OWN_FAULT
        await context.abort(status, details)
        raise AssertionError("abort raises")

    def _warn(self, caller: str, what: str) -> None:
        """Log it, once a minute: whoever calls in a loop fills no disk."""
        if self._this_minute.one_more(caller, what) == 1:
            _log.warning("%s: %s", caller, what)


class ThisMinute:
    """How often what happened, in the present minute; what was before is forgotten."""

    def __init__(self) -> None:
        self._since = -math.inf
        self._times: Counter[tuple[str, ...]] = Counter()

    def one_more(self, *what: str) -> int:
        """Count it once more; return how often it happened."""
        if monotonic() - self._since > 60:
            self._since, self._times = monotonic(), Counter()
        self._times[what] += 1
        return self._times[what]


def certificate(context: Context) -> bytes:
    """Return the caller's certificate, PEM; empty where it showed none."""
    certificates: list[bytes] = list(context.auth_context().get("x509_pem_cert", []))
    return certificates[0] if certificates else b""


def stranger(context: Context) -> str:
    """Return what a caller is called that has no name: by its address, without the port."""
    return f"a caller at {context.peer().rpartition(':')[0]}"
