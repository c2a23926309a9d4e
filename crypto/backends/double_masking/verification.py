"""Checking a round afterwards, from its transcript and a roster alone: docs/protocol.md's promises step by step.

It takes no party's word: whoever made the transcript could have left out or invented anything that a signature under a
roster key does not cover. Steps raise and never answer, so nobody can forget to look at an answer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from crypto.backends.double_masking.replay import Replay, check_covered, check_opening
from crypto.backends.double_masking.transcript import (
    AGGREGATOR,
    OPENING,
    SURVIVORS,
    VERDICT,
    auditors,
    check_ascending,
    check_coins,
    check_enough,
    check_participants,
    check_signatures,
    check_survivors,
    joint_coin,
    participants_digest,
)
from crypto.encoding.wire import decode, encode
from crypto.errors import PlanError, SparsiloError
from crypto.names import Backend, Phase
from crypto.plan import MAX_PLAN_BYTES
from crypto.secagg.session import MAX_MESSAGE_BYTES, Round
from sparsilo.v1 import round_pb2

MAX_TRANSCRIPT_BYTES: Final = MAX_PLAN_BYTES + 7 * MAX_MESSAGE_BYTES
"""A plan and one answer in each of seven phases, each within its own limit."""


@dataclass(frozen=True)
class Verified:
    """What a transcript proves under a roster. The words are proven by `replay`, chunk by chunk."""

    round: Round
    participants: tuple[str, ...]
    """Silos that signed an acceptance of the plan; the survivors each signed the root of their upload."""
    survivors: tuple[str, ...]
    signed_survivors: tuple[str, ...]
    signed_opening: tuple[str, ...]
    signed_verdict: tuple[str, ...]
    """Silos that recomputed the chunks which the joint coin gave them, and found them right."""
    roots: Mapping[str, bytes]
    """Merkle roots: of each survivor's upload, and under "" of the opened sum."""
    replay: Replay

    @property
    def dropped(self) -> tuple[str, ...]:
        """Silos of the round that are in no sum."""
        return tuple(silo for silo in self.round.silos if silo not in self.survivors)


def verify_transcript(encoded: bytes, roster: Mapping[str, bytes]) -> Verified:
    """Every check of a transcript that needs no words. `roster` is the pinned one: public signing keys by silo.

    Raises the error that a silo in the round would have raised, with the step named before the party.
    """
    with step("1, bytes and plan"):
        transcript = decode(round_pb2.Transcript, encoded, MAX_TRANSCRIPT_BYTES, party=AGGREGATOR)
        round_ = Round.of(transcript.plan, transcript.index, transcript.input, transcript.cohort)
        plan = round_.plan
        if plan.backend is not Backend.DOUBLE_MASKING:
            raise PlanError(f"the backend is {plan.backend}, in which nothing is signed")
    with step("2, roster"):
        plan.check_roster(roster)
    with step("3, acceptances"):
        check_participants(round_, transcript.participants)
        commitments = {key.silo: key.coin_commitment for key in transcript.participants.keys}
        check_enough(len(commitments), round_.least_survivors, Phase.PLAN)
        participants = participants_digest(round_.digest, transcript.participants)
    with step("4, uploads"):
        check_survivors(plan, participants, transcript.survivors, tuple(commitments))
        survivors = tuple(signed.silo for signed in transcript.survivors.roots)
        check_enough(len(survivors), round_.least_survivors, Phase.UPLOAD)
    with step("5, survivors"):
        message = encode(transcript.survivors)
        signed_survivors = check_signatures(
            plan, participants, transcript.survivors_signatures, survivors, SURVIVORS, message
        )
        check_enough(len(signed_survivors), round_.threshold, Phase.CONSISTENCY)
    with step("6, opening"):
        opening = transcript.opening
        lost = sorted({pair.dropped for pair in opening.pair_seeds})
        check_ascending(lost, [silo for silo in commitments if silo not in survivors], "dropped silos", AGGREGATOR)
        check_opening(opening, survivors, lost)
        message = encode(opening)
        signed_opening = check_signatures(
            plan, participants, transcript.opening_signatures, survivors, OPENING, message
        )
        check_enough(len(signed_opening), round_.threshold, Phase.OPENING)
    with step("7, coins"):
        check_coins(transcript.coins, round_.digest, {silo: commitments[silo] for silo in signed_opening}, AGGREGATOR)
        coin = joint_coin(participants, transcript.coins)
    with step("8, verdicts"):
        signed_verdict = check_signatures(
            plan, participants, transcript.verdicts, signed_opening, VERDICT, message + coin
        )
        check_enough(len(signed_verdict), round_.threshold, Phase.AUDIT)
        pairs = auditors(coin, len(round_.layout.chunks), len(signed_opening))
        judged_by = [signed_opening.index(silo) for silo in signed_verdict]
        check_covered(pairs, judged_by, plan.message.colluders)
    return Verified(
        round_,
        tuple(commitments),
        survivors,
        signed_survivors,
        signed_opening,
        signed_verdict,
        {**{signed.silo: signed.root for signed in transcript.survivors.roots}, "": opening.sum_root},
        Replay(round_, participants, transcript.survivors, opening),
    )


@contextmanager
def step(name: str) -> Iterator[None]:
    """An error inside says in which numbered step it was."""
    try:
        yield
    except SparsiloError as error:
        error.message = f"step {name}: {error.message}"
        raise
