"""Callers are named by their certificate, counted, and told whose fault an error is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from aggregator import limits
from aggregator.edge import callers
from aggregator.edge.callers import Callers
from aggregator.metrics import AggregatorMetrics
from aggregator.rounds.present_silos import PresentSilos
from aggregator.rounds.traffic import CountedTraffic, Traffic
from aggregator.silos.admission import NotAdmitted
from crypto.errors import (
    BadUpload,
    IdentityError,
    InputError,
    MalformedMessage,
    RoundAborted,
    UnexpectedMessage,
)
from support.driven import iterate

CODE = grpc.StatusCode


class Refused(grpc.aio.AbortError):
    """The call was ended with a status code and details."""


class Caller:
    """The context of a call from whoever shows this certificate."""

    def __init__(self, pem: bytes = b"a's certificate") -> None:
        self._pem = pem

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._pem]}

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4242"

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refused(code, details)


def saying(*messages: bytes) -> AsyncIterator[bytes]:
    return iterate(iter(messages))


async def never() -> AsyncIterator[bytes]:
    """A caller who keeps its request to itself."""
    await asyncio.Event().wait()
    yield b""


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

    def answered(self, request: bytes, answer: bytes | Exception, caller: Any) -> bytes:
        async def say(silo: str, asked: bytes) -> bytes:
            assert (silo, asked) == ("a", request)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return asyncio.run(self.callers.answered(saying(request), say, caller))


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

    async def chunks(silo: str, _: bytes) -> AsyncIterator[bytes]:
        yield silo.encode() * 7
        raise RoundAborted("the disk is full", hint="make room")

    async def listen() -> None:
        stream = gate.callers.streamed(saying(b"12"), chunks, caller)
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
        (InputError("/srv/state/enrolments.sqlite: is locked"), CODE.INTERNAL, callers.OWN_FAULT),
        (OSError("/srv/state: no space"), CODE.INTERNAL, callers.OWN_FAULT),
    ],
)
@pytest.mark.clause("7.21")
def test_an_error_says_whose_fault_it_is(error: Exception, status: grpc.StatusCode, details: str) -> None:
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


@pytest.mark.clause("7.20")
def test_a_silo_has_only_so_many_calls_under_way() -> None:
    """Streams among them, and those whose request has not arrived. Others are answered, and so is the silo once one of
    them has ended.
    """
    gate = Gate()
    caller: Any = Caller()

    async def work() -> None:
        ended = asyncio.Event()

        async def wait(*_: object) -> bytes:
            await ended.wait()
            return b"2"

        async def chunks(*_: object) -> AsyncIterator[bytes]:
            yield await wait()

        def call() -> Any:
            return gate.callers.answered(saying(b"1"), wait, caller)

        under_way = [asyncio.ensure_future(call()) for _ in range(limits.MOST_CALLS - 2)]
        stream = gate.callers.streamed(saying(b"1"), chunks, caller)
        under_way.append(asyncio.ensure_future(anext(stream)))
        silent = asyncio.ensure_future(gate.callers.answered(never(), wait, caller))
        while gate.callers._under_way["a"] < limits.MOST_CALLS:
            await asyncio.sleep(0.01)
        for refused_call in (call(), anext(gate.callers.streamed(never(), chunks, caller))):
            with pytest.raises(Refused) as refused:
                await refused_call
            assert refused.value.args[0] is CODE.RESOURCE_EXHAUSTED
        ended.set()
        assert await asyncio.gather(*under_way) == [b"2"] * (limits.MOST_CALLS - 1)
        await stream.aclose()
        assert await call() == b"2"
        silent.cancel()

    asyncio.run(asyncio.wait_for(work(), 20))


@pytest.mark.clause("7.20")
@pytest.mark.parametrize("sent", [(), (b"1", b"2")])
def test_a_message_that_does_not_arrive_ends_the_call(
    sent: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first, or a later one of an upload."""
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.05)
    gate = Gate()
    caller: Any = Caller()

    async def trickle() -> AsyncIterator[bytes]:
        for message in sent:
            yield message
        async for message in never():
            yield message

    async def upload() -> None:
        async with gate.callers.call("a", caller):
            assert [message async for message in gate.callers.uploaded("a", trickle(), caller)] == []

    with pytest.raises(Refused) as refused:
        asyncio.run(upload())
    assert refused.value.args == (CODE.RESOURCE_EXHAUSTED, "keeps a request waiting")
    assert "a: keeps a request waiting" in caplog.text
    assert gate.traffic == Traffic(len(sent), 0)
    assert gate.callers._under_way["a"] == 0


def test_a_call_that_asks_for_nothing() -> None:
    gate = Gate()
    caller: Any = Caller()

    async def say(*_: object) -> bytes:
        return b""

    with pytest.raises(Refused) as refused:
        asyncio.run(gate.callers.answered(saying(), say, caller))
    assert refused.value.args == (CODE.INVALID_ARGUMENT, "malformed_message: a: asks for nothing")


@pytest.mark.clause("7.20")
def test_identity_is_called_so_often_a_minute_and_by_one_silo_in_anothers_stead_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    caller: Any = Caller()
    now = 1000.0
    monkeypatch.setattr(callers, "monotonic", lambda: now)

    async def work() -> None:
        nonlocal now
        for _minute in range(2):
            for _ in range(limits.IDENTITY_CALLS_A_MINUTE):
                await gate.callers.pace("a", caller)
            with pytest.raises(Refused) as refused:
                await gate.callers.pace("a", caller)
            assert refused.value.args == (CODE.RESOURCE_EXHAUSTED, "calls Identity too often")
            await gate.callers.pace("b", caller)
            now += 61

    asyncio.run(work())


def test_a_loop_of_refused_calls_is_one_line_a_minute_and_says_where_it_comes_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    for _ in range(50):
        with pytest.raises(Refused):
            gate.answered(b"1", b"2", Caller(b"b's certificate"))
    assert [record.getMessage() for record in caplog.records] == [
        "a caller at ipv4:192.0.2.1: refused: identity: a was revoked"
    ]


def test_who_does_not_read_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(limits, "UNREAD_SECONDS", 0.05)
    gate = Gate()
    caller: Any = Caller()

    async def chunks(*_: object) -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"

    async def listen() -> None:
        stream = gate.callers.streamed(saying(b"1"), chunks, caller)
        await anext(stream)
        assert caplog.text == ""
        await asyncio.sleep(0.2)
        assert "a: does not read what it asked for" in caplog.text
        assert [chunk async for chunk in stream] == [b"2"]

    asyncio.run(listen())


def test_who_calls_in_a_loop_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(limits, "MANY_CALLS_A_MINUTE", 20)
    gate = Gate()
    for times in range(1, 50):
        gate.answered(b"1", b"2", Caller())
        assert ("a: has called 20 times within a minute" in caplog.text) == (times >= 20)
    assert len(caplog.records) == 1
