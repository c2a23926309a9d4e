"""A dishonest aggregator answers whatever may end the agent of a silo, so that the silo misses later rounds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from attacks.conftest import Approached
from crypto.encoding.wire import encode
from crypto.errors import ConnectionFailed, IdentityError, MalformedMessage, ProtocolError, RoundAborted, SparsiloError
from silo_agent.host.metrics import unseen
from silo_agent.rounds import round_driver
from sparsilo.v1 import round_pb2

pytestmark = pytest.mark.clause("7.22")


class StillThere(BaseException):
    """Every answer was heard."""


class Odd:
    """In the transport's place: answers one thing after another."""

    def __init__(self, *answers: SparsiloError | round_pb2.Offer) -> None:
        self.answers = list(answers)

    def next(self) -> round_pb2.Offer | None:
        if not self.answers:
            raise StillThere
        answer = self.answers.pop(0)
        if isinstance(answer, SparsiloError):
            raise answer
        return answer

    def decline(self, round_digest: bytes, reason: str) -> None:
        raise ConnectionFailed("hung up")


def test_an_agent_that_stays_goes_on(
    approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    approached, slept = approach(), list[float]()
    monkeypatch.setattr(round_driver, "sleep", slept.append)
    plan = encode(approached.agreed)
    answers = (
        *(IdentityError("the aggregator refuses this silo: a was revoked"), IdentityError("again, once announced")),
        *(ConnectionFailed("answers INTERNAL"), ProtocolError("refuses the message"), RoundAborted("over")),
        MalformedMessage("is no offer"),
        round_pb2.Offer(),
        round_pb2.Offer(over=round_pb2.Over()),
        round_pb2.Offer(over=round_pb2.Over(failure="all is lost")),
        round_pb2.Offer(round=round_pb2.RoundOffer(plan=b"no plan", index=0)),
        round_pb2.Offer(round=round_pb2.RoundOffer(plan=plan, index=7)),
    )
    transport: Any = Odd(*answers)
    nothing: Any = lambda *_: None  # noqa: E731
    config = replace(approached.config, stay=True)
    with pytest.raises(StillThere):
        round_driver.Agent(config, transport, unseen(), nothing, nothing, nothing, nothing).run()
    assert transport.answers == []
    assert "a was revoked" not in caplog.text, "the announcement may have helped"
    assert "no more rounds" in caplog.text
    assert slept[:3] == [1.0, 2.0, 4.0]
    assert max(slept) == round_driver.MOST_DELAY


def test_an_agent_that_does_not_stay_ends(approach: Callable[..., Approached]) -> None:
    transport: Any = Odd(ConnectionFailed("answers INTERNAL"))
    nothing: Any = lambda *_: None  # noqa: E731
    with pytest.raises(ConnectionFailed):
        round_driver.Agent(approach().config, transport, unseen(), nothing, nothing, nothing, nothing).run()
