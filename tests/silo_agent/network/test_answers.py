"""What a silo makes of each status code that an aggregator, or something on the way, may answer with."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from crypto.errors import (
    ConnectionFailed,
    IdentityError,
    ProtocolError,
    RoundAborted,
    SparsiloError,
    VersionsDiffer,
)
from crypto.identity import Authority
from silo_agent.host.metrics import unseen
from silo_agent.network import transport
from silo_agent.network.calls import Advance
from silo_agent.network.transport import ANSWERS, CODE, Transport
from support.on_loopback import grpc_server

pytestmark = pytest.mark.clause("7.3")

AUTHORITY = Authority("ours", datetime.now(UTC), timedelta(days=1))
AGAIN = sorted({*CODE} - {*ANSWERS} - {CODE.OK}, key=lambda code: code.name)


class Answers:
    """An aggregator that answers with `codes`, one after another, and then well."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.called: list[float] = []

    def __call__(self, context: Any) -> bytes:
        self.called.append(time.monotonic())
        if self.codes:
            context.abort(self.codes.pop(0), "/srv/state: says whatever it likes")
        return b"well"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Answers, Transport]]:
    monkeypatch.setattr(transport, "FIRST_DELAY", 0.01)
    with ExitStack() as stack:
        made = Answers()
        own = AUTHORITY.issue("aggregator", ("127.0.0.1",))
        port = stack.enter_context(grpc_server(own, AUTHORITY.certificate, made))
        silo = AUTHORITY.issue("a")
        patient = Transport(f"127.0.0.1:{port}", silo, AUTHORITY.certificate, unseen(), reconnect_seconds=300)
        yield made, stack.enter_context(closing(patient))


@pytest.mark.parametrize("code", AGAIN)
def test_what_says_nothing_of_the_message_is_followed_by_the_same_again(
    code: grpc.StatusCode, answers: tuple[Answers, Transport]
) -> None:
    """In growing steps, also where a deadline is over before its time: nobody makes a silo call in a hot loop."""
    aggregator, silo = answers
    aggregator.codes = [code] * 4
    assert silo.perform(Advance(b"words")) == b"well"
    steps = [after - before for before, after in zip(aggregator.called, aggregator.called[1:], strict=False)]
    assert all(step > 0.01 * 2**at for at, step in enumerate(steps))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (CODE.UNAUTHENTICATED, IdentityError),
        (CODE.PERMISSION_DENIED, IdentityError),
        (CODE.FAILED_PRECONDITION, ProtocolError),
        (CODE.INVALID_ARGUMENT, ProtocolError),
        (CODE.ABORTED, RoundAborted),
        (CODE.UNIMPLEMENTED, VersionsDiffer),
    ],
)
def test_an_answer_is_one(
    code: grpc.StatusCode, error: type[SparsiloError], answers: tuple[Answers, Transport]
) -> None:
    aggregator, silo = answers
    aggregator.codes = [code] * 2
    with pytest.raises(error, match="whatever it likes"):
        silo.perform(Advance(b"words"))
    assert len(aggregator.called) == 1


def test_who_answers_nothing_else_for_long_enough_is_given_up(answers: tuple[Answers, Transport]) -> None:
    aggregator, silo = answers
    silo._reconnect_seconds = 0.5
    aggregator.codes = [CODE.INTERNAL, CODE.RESOURCE_EXHAUSTED] * 500
    with pytest.raises(ConnectionFailed, match=r"answers (INTERNAL|RESOURCE_EXHAUSTED): /srv/state"):
        silo.perform(Advance(b"words"))
    assert 1 < len(aggregator.called) < 50
