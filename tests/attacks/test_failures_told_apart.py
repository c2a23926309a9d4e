"""An aggregator offers rounds that fail at a silo after it agreed to them, and hopes to hear why, or when."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.conftest import Approached
from attacks.surrounded import watched
from crypto.errors import CalibrationError, ModelError, OutputError
from silo_agent.consent.audit_log import AUDIT_FILE, read_audit_log
from silo_agent.rounds import round_driver
from silo_agent.rounds.run_of_plan import RunOfPlan

pytestmark = pytest.mark.clause("14.2.3")

FAILURES = [
    CalibrationError("has too little text"),
    ModelError("weights are not finite"),
    OutputError("no space left on device"),
    OSError(28, "No space left on device"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("expected scalar type Float"),
    IndexError("index out of range in self"),
    StopIteration(),
]
PRIVATE = "the patient's name"


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, after: float) -> None:
    """Make preparing fail after so many seconds."""

    def prepare(*_: Any) -> None:
        passed = round_driver.monotonic() + after
        monkeypatch.setattr(round_driver, "monotonic", lambda: passed)
        raise error

    monkeypatch.setattr(RunOfPlan, "prepare", prepare)


@pytest.mark.parametrize("after", [0.0, 17.0])
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_one_word_at_one_time(
    error: Exception, after: float, approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    approached = approach()
    approached.config = replace(approached.config, stay=True)
    failing(monkeypatch, error, after)
    around = watched(approached, approached.agreed, monkeypatch)
    spent = 60.0 - after  # of the plan's preparation_seconds
    assert around.seen == [
        *[("Next", 0.0), ("sleeps until", spent), ("Decline", "failed")],
        *[("Withdraw", around.world.round.digest), ("Next", spent)],
    ]


def test_why_is_in_the_own_audit_log_without_words_that_may_be_the_texts(
    approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    approached = approach()
    approached.config = replace(approached.config, stay=True)
    for error in (OSError(28, "No space left on device"), KeyError(PRIVATE), ValueError(PRIVATE)):
        failing(monkeypatch, error, 0.0)
        approached.agreed.run = approached.agreed.run[1:] + b"x"  # another plan
        approached.agreed.pruning.samples += 1
        watched(approached, approached.agreed, monkeypatch)
    events = read_audit_log(approached.config.state / AUDIT_FILE)
    reasons = [event["reason"] for event in events if event["event"] == "round_failed"]
    assert reasons == ["[Errno 28] No space left on device", "KeyError", "ValueError"]
    assert PRIVATE not in caplog.text


@pytest.mark.parametrize("error", [ModelError("weights are not finite"), RuntimeError("out of memory")])
def test_an_agent_that_does_not_stay_ends_with_the_error_and_the_word(
    error: Exception, approach: Callable[..., Approached], monkeypatch: pytest.MonkeyPatch
) -> None:
    approached = approach()
    failing(monkeypatch, error, 0.0)
    with pytest.raises(type(error)) as raised:
        approached.offer(approached.agreed)
    assert raised.value is error
    assert approached.declined == ["failed"]
