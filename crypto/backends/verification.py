"""A round checked afterwards, from its transcript and a roster alone; which backend it had, the transcript says."""

from collections.abc import Mapping
from typing import Final

from crypto.backends.backend_spec import backend_spec
from crypto.encoding.wire import decode
from crypto.errors import PlanError
from crypto.names import AGGREGATOR
from crypto.plan import MAX_PLAN_BYTES
from crypto.secagg.messages import MAX_MESSAGE_BYTES
from crypto.secagg.round import Round
from crypto.secagg.verified import Verified, step
from sparsilo.v1 import round_pb2

MAX_TRANSCRIPT_BYTES: Final = MAX_PLAN_BYTES + 7 * MAX_MESSAGE_BYTES
"""A plan and one answer in each of seven phases, each within its own limit."""


def verify_transcript(encoded: bytes, roster: Mapping[str, bytes]) -> Verified:
    """Return what a transcript proves: every check that needs no words. `roster`: public signing keys by silo.

    Raises the error that a silo in the round would have raised, with the step named before the party.
    """
    with step("1, bytes and plan"):
        transcript = decode(round_pb2.Transcript, encoded, MAX_TRANSCRIPT_BYTES, party=AGGREGATOR)
        round_ = Round.of(transcript.plan, transcript.index, transcript.input, transcript.cohort)
        verify = backend_spec(round_.plan.backend).verify
        if verify is None:
            raise PlanError(f"the backend is {round_.plan.backend}, in which nothing is signed")
    return verify(round_, transcript, roster)
