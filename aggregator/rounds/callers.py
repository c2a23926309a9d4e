"""Whoever calls: named by the certificate that TLS has verified, counted, and told errors as status codes."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import grpc
import grpc.aio

from aggregator.limits import MOST_CALLS
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.present_silos import PresentSilos
from aggregator.rounds.traffic import CountedTraffic
from aggregator.silos.admission import Admit, NotAdmitted
from crypto.errors import IdentityError, MalformedMessage, ProtocolError, RoundAborted, SparsiloError

Context = grpc.aio.ServicerContext[bytes, bytes]

ADMITTED_SECONDS: Final = 1.0
"""How long a caller that was admitted is admitted without looking again: an upload has thousands of messages."""

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
        self._admitted: dict[bytes, tuple[float, str]] = {}
        self._under_way: Counter[str] = Counter()

    async def name(self, context: Context) -> str:
        """Return the caller's name. Ends the call where its certificate does not hold, or not any more."""
        pem = certificate(context)
        now = asyncio.get_running_loop().time()
        since, silo = self._admitted.get(pem, (-math.inf, ""))
        if now - since > ADMITTED_SECONDS:
            try:
                silo = self._admit(pem)
            except NotAdmitted as error:
                self._admitted.pop(pem, None)
                await self._refuse(context, "a caller", error)
            # One a silo, however many certificates it has had issued for its key.
            self._admitted = {other: seen for other, seen in self._admitted.items() if seen[1] != silo}
            self._admitted[pem] = now, silo
        self._present.called(silo)
        return silo

    async def answered(self, request: bytes, answer: Callable[[str], Awaitable[bytes]], context: Context) -> bytes:
        """Return what `answer` says to the caller, and count request and answer.

        Neither counts where the request is empty: it only asks what is new, as Next does.
        """
        silo = await self.name(context)
        self.traffic.count(silo, up=len(request))
        data = await self.unless_refused(silo, lambda: answer(silo), context)
        if request:
            self.traffic.count(silo, down=len(data))
        return data

    async def streamed(
        self, request: bytes, chunks: Callable[[str], AsyncIterator[bytes]], context: Context
    ) -> AsyncIterator[bytes]:
        """Yield what `chunks` gives the caller, and count request and chunks."""
        silo = await self.name(context)
        self.traffic.count(silo, up=len(request))
        try:
            async with self._one_more(silo, context):
                async for chunk in chunks(silo):
                    self.traffic.count(silo, down=len(chunk))
                    yield chunk
        except (ProtocolError, RoundAborted) as error:
            await self._refuse(context, silo, error)

    async def unless_refused(self, caller: str, answer: Callable[[], Awaitable[bytes]], context: Context) -> bytes:
        """Return an answer; where it is an error, end the call with that error's status code."""
        try:
            async with self._one_more(caller, context):
                return await answer()
        except SparsiloError as error:
            await self._refuse(context, caller, error)
            raise

    @asynccontextmanager
    async def _one_more(self, caller: str, context: Context) -> AsyncIterator[None]:
        """Count a call while it lasts. Ends it where the caller has too many already."""
        if self._under_way[caller] >= MOST_CALLS:
            _log.warning("%s: refused: has %d calls under way", caller, MOST_CALLS)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_CALLS} calls are under way already")
        self._under_way[caller] += 1
        try:
            yield
        finally:
            self._under_way[caller] -= 1

    async def _refuse(self, context: Context, caller: str, error: SparsiloError) -> None:
        if isinstance(error, NotAdmitted):
            self._metrics.refused_calls.labels(error.reason).inc()
        _log.warning("%s: refused: %s: %s", caller, error.code, error.message)
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
        details = str(error) if isinstance(error, IdentityError) else f"{error.code}: {error}"
        await context.abort(status, details)


def certificate(context: Context) -> bytes:
    """Return the caller's certificate, PEM; empty where it showed none."""
    certificates: list[bytes] = list(context.auth_context().get("x509_pem_cert", []))
    return certificates[0] if certificates else b""
