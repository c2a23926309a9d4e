"""Callers are named by their certificate, counted, and told whose fault an error is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from aggregator.metrics import AggregatorMetrics
from aggregator.rounds import callers
from aggregator.rounds.callers import Callers
from aggregator.rounds.present_silos import PresentSilos
from aggregator.rounds.traffic import CountedTraffic, Traffic
from aggregator.silos.admission import NotAdmitted
from crypto.errors import (
    BadUpload,
    IdentityError,
    InputError,
    MalformedMessage,
    RoundAborted,
    SparsiloError,
    UnexpectedMessage,
)

CODE = grpc.StatusCode


class Refused(Exception):
    """The call was ended with a status code and details."""


class Caller:
    """The context of a call from whoever shows this certificate."""

    def __init__(self, pem: bytes = b"a's certificate") -> None:
        self._pem = pem

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._pem]}

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refused(code, details)


class Gate:
    """Admits silo a until it is revoked, and counts how often it looked."""

    def __init__(self) -> None:
        self.looked, self.revoked = 0, False
        self.registry = CollectorRegistry()
        metrics = AggregatorMetrics(self.registry)
        self.present = PresentSilos()
        self.callers = Callers(self._admit, self.present, CountedTraffic(metrics), metrics)

    def _admit(self, pem: bytes) -> str:
        self.looked += 1
        if self.revoked or not pem.startswith(b"a"):
            raise NotAdmitted("revoked", "a was revoked", "ask for a new invitation")
        return "a"

    @property
    def traffic(self) -> Traffic:
        return self.callers.traffic.so_far(("a",))["a"]

    def answered(self, request: bytes, answer: bytes | SparsiloError, caller: Any) -> bytes:
        async def say(silo: str) -> bytes:
            assert silo == "a"
            if isinstance(answer, SparsiloError):
                raise answer
            return answer

        return asyncio.run(self.callers.answered(request, say, caller))


def test_a_request_and_its_answer_are_counted() -> None:
    gate = Gate()
    assert gate.answered(b"12345", b"678", Caller()) == b"678"
    assert gate.traffic == Traffic(5, 3)
    assert gate.answered(b"", b"an offer", Caller()) == b"an offer"
    assert gate.traffic == Traffic(5, 3), "who only asks what is new is not counted"
    assert gate.present.connected() == 1


def test_what_is_streamed_is_counted_as_far_as_it_came() -> None:
    gate = Gate()
    caller: Any = Caller()  # as much of a context as is used

    async def chunks(silo: str) -> AsyncIterator[bytes]:
        yield silo.encode() * 7
        raise RoundAborted("the disk is full", hint="make room")

    async def listen() -> None:
        stream = gate.callers.streamed(b"12", chunks, caller)
        assert await anext(stream) == b"aaaaaaa"
        await anext(stream)

    with pytest.raises(Refused) as refused:
        asyncio.run(listen())
    assert refused.value.args == (CODE.ABORTED, "round_aborted: the disk is full (make room)")
    assert gate.traffic == Traffic(2, 7)


@pytest.mark.parametrize(
    ("error", "status", "details"),
    [
        (IdentityError("who?", hint="enrol"), CODE.UNAUTHENTICATED, "who? (enrol)"),
        (MalformedMessage("is no message", party="a"), CODE.INVALID_ARGUMENT, "malformed_message: a: is no message"),
        (UnexpectedMessage("too late", party="a"), CODE.FAILED_PRECONDITION, "unexpected_message: a: too late"),
        (BadUpload("chunk 1", party="a"), CODE.FAILED_PRECONDITION, "bad_upload: a: chunk 1"),
        (RoundAborted("the disk is full"), CODE.ABORTED, "round_aborted: the disk is full"),
        (InputError("the state folder"), CODE.INTERNAL, "input: the state folder"),
    ],
)
def test_an_error_says_whose_fault_it_is(error: SparsiloError, status: grpc.StatusCode, details: str) -> None:
    gate = Gate()
    with pytest.raises(Refused) as refused:
        gate.answered(b"12345", error, Caller())
    assert refused.value.args == (status, details)
    assert gate.traffic == Traffic(5, 0)


def test_who_was_admitted_is_looked_at_again_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    caller: Any = Caller()  # as much of a context as is used

    async def work() -> None:
        now = 100.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        for _ in range(3):
            assert await gate.callers.name(caller) == "a"
        assert gate.looked == 1
        gate.revoked = True
        now += callers.ADMITTED_SECONDS
        assert await gate.callers.name(caller) == "a"
        now += 0.01
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                await gate.callers.name(caller)
            assert refused.value.args[0] is CODE.UNAUTHENTICATED

    asyncio.run(work())
    assert gate.looked == 3
    assert gate.registry.get_sample_value("sparsilo_aggregator_refused_calls_total", {"reason": "revoked"}) == 2


def test_who_shows_another_certificate_is_looked_at_anew() -> None:
    gate = Gate()
    assert gate.answered(b"1", b"2", Caller()) == b"2"
    with pytest.raises(Refused):
        gate.answered(b"1", b"2", Caller(b"b's certificate"))
    assert gate.looked == 2


@pytest.mark.clause("7.13")
def test_a_silo_has_only_so_many_calls_under_way() -> None:
    """Streams among them. Others are answered, and so is the silo once one of them has ended."""
    gate = Gate()
    caller: Any = Caller()

    async def work() -> None:
        ended = asyncio.Event()

        async def wait(_: str) -> bytes:
            await ended.wait()
            return b"2"

        async def chunks(_: str) -> AsyncIterator[bytes]:
            yield await wait("a")

        under_way = [
            asyncio.ensure_future(gate.callers.answered(b"1", wait, caller)) for _ in range(callers.MOST_CALLS - 1)
        ]
        stream = gate.callers.streamed(b"1", chunks, caller)
        under_way.append(asyncio.ensure_future(anext(stream)))
        await asyncio.sleep(0)
        for call in (gate.callers.answered(b"1", wait, caller), anext(gate.callers.streamed(b"1", chunks, caller))):
            with pytest.raises(Refused) as refused:
                await call
            assert refused.value.args[0] is CODE.RESOURCE_EXHAUSTED
        ended.set()
        assert await asyncio.gather(*under_way) == [b"2"] * callers.MOST_CALLS
        await stream.aclose()
        assert await gate.callers.answered(b"1", wait, caller) == b"2"

    asyncio.run(asyncio.wait_for(work(), 20))
