"""Checking a round afterwards, from its transcript and a roster alone: docs/protocol.md's promises step by step.

It takes no party's word: whoever made the transcript could have left out or invented anything that a signature under a
roster key does not cover. Steps raise and never answer, so nobody can forget to look at an answer.
"""

from collections.abc import Mapping

from crypto.backends.double_masking.replay import Replay, check_covered, check_opening
from crypto.backends.double_masking.transcript import (
    OPENING,
    SURVIVORS,
    VERDICT,
    auditors,
    auditors_a_chunk,
    check_ascending,
    check_coins,
    check_enough,
    check_participants,
    check_signatures,
    check_survivors,
    joint_coin,
    participants_digest,
)
from crypto.encoding.wire import encode
from crypto.names import AGGREGATOR, Phase
from crypto.secagg.round import Round
from crypto.secagg.verified import Verified, step
from sparsilo.v1 import round_pb2


def verify_round(round_: Round, transcript: round_pb2.Transcript, roster: Mapping[str, bytes]) -> Verified:
    """Return what a transcript of the round proves. `roster` is the pinned one: public signing keys by silo.

    Raises the error that a silo in the round would have raised, with the step named before the party.
    """
    plan = round_.plan
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
        drawn = auditors(coin, len(round_.layout.chunks), len(signed_opening), auditors_a_chunk(plan))
        judged_by = [signed_opening.index(silo) for silo in signed_verdict]
        check_covered(drawn, judged_by, plan.message.colluders)
    return Verified(
        round_,
        survivors,
        {
            "acceptance": tuple(commitments),
            "upload": survivors,
            "survivors": signed_survivors,
            "opening": signed_opening,
            "verdict": signed_verdict,
        },
        {**{signed.silo: signed.root for signed in transcript.survivors.roots}, "": opening.sum_root},
        Replay(round_, participants, transcript.survivors, opening).chunk,
    )
