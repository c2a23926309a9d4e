"""A dishonest aggregator forges a sum, sees from the coins who will recompute it, and ends the round if it would show.

With enough colluders among the auditors some try passes. So a failed try must not be free.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.surrounded import VICTIM, Surrounded, driven
from crypto.encoding.wire import encode
from crypto.errors import ConnectionFailed, ReleaseRefused, RoundAborted
from crypto.names import Phase
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.audit_log import AUDIT_FILE
from sparsilo.v1 import plan_pb2, round_pb2

pytestmark = pytest.mark.clause("14.6.1", "14.6.2")

SIGNED = (Phase.OPENING, Phase.COIN, Phase.AUDIT)


class Ending(Surrounded):
    """Ends the round in one phase, once the silo has spoken in it: with a message, or by falling silent."""

    def __init__(self, plan: plan_pb2.Plan, folder: Path, phase: Phase, *, silently: bool) -> None:
        super().__init__(plan, folder)
        self._phase, self._silently = phase, silently

    def _advance(self, message: bytes) -> bytes:
        phase = self.world.aggregator.phase
        answer = super()._advance(message)
        if phase is not self._phase:
            return answer
        if self._silently:
            raise ConnectionFailed("silent")
        aborted = round_pb2.Aborted(phase=phase, reason="a silo was lost")
        return encode(round_pb2.AggregatorMessage(round=self.world.round.digest, aborted=aborted))


def end_one(silo: Any, run: int, phase: Phase, *, silently: bool = False) -> Ending:
    """A round of a run of its own that ends so."""
    silo.agreed.run = bytes([run] * 16)
    around = Ending(silo.agreed, silo.config.state.parent, phase, silently=silently)
    with pytest.raises((RoundAborted, ConnectionFailed)):
        driven(silo.config, around)
    return around


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("phase", [Phase.UPLOAD, Phase.CONSISTENCY, Phase.UNMASK, *SIGNED])
def test_it_is_an_accusation_with_evidence(phase: Phase, silently: bool, approach: Callable[..., Any]) -> None:
    silo = approach()
    round_ = end_one(silo, 1, phase, silently=silently).world.round
    accusations = Accusations(silo.config.state)
    events = [json.loads(line) for line in (silo.config.state / AUDIT_FILE).read_text().splitlines()]
    accused = [event for event in events if event["event"] == "accusation"]
    if phase not in SIGNED:
        assert (accusations.standing(), accused) == ([], [])
        assert not accusations.evidence(round_.digest).exists()
        return
    assert accusations.standing() == [round_.digest]
    assert [event["round"] for event in accused] == [round_.digest.hex()]
    kept = round_pb2.Transcript.FromString(accusations.evidence(round_.digest).read_bytes())
    assert VICTIM in [root.silo for root in kept.survivors.roots]
    assert kept.opening.sum_root
    assert kept.HasField("opening_signatures") is (phase is not Phase.OPENING)
    assert kept.HasField("coins") is (phase is Phase.AUDIT)


def test_an_agent_that_is_killed_accuses_too(approach: Callable[..., Any]) -> None:
    """It has no evidence left, but it had recorded that it signed."""
    silo = approach()
    around = Surrounded(silo.agreed, silo.config.state.parent)
    perform = around.perform

    def killed(call: Any) -> Any:
        if around.worlds and around.world.aggregator.phase is Phase.COIN:
            raise KeyboardInterrupt
        return perform(call)

    around.perform = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        driven(silo.config, around)
    assert Accusations(silo.config.state).standing() == [around.world.round.digest]


def test_a_round_that_is_done_accuses_nobody(approach: Callable[..., Any]) -> None:
    silo = approach()
    driven(silo.config, Surrounded(silo.agreed, silo.config.state.parent))
    assert Accusations(silo.config.state).standing() == []


def test_after_three_tries_the_silo_takes_part_in_nothing_until_a_person_says_so(approach: Callable[..., Any]) -> None:
    silo = approach()
    rounds = [end_one(silo, run, phase).world.round.digest for run, phase in enumerate(SIGNED)]
    silo.agreed.run = b"once more please"
    with pytest.raises(ReleaseRefused, match=r"^3 rounds ended after this silo had signed what they opened") as refused:
        driven(silo.config, Surrounded(silo.agreed, silo.config.state.parent))
    assert "silo-agent ledger lists them" in (refused.value.hint or "")
    Accusations(silo.config.state).dismiss(rounds[1])
    driven(silo.config, Surrounded(silo.agreed, silo.config.state.parent))
