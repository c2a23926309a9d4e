"""Rounds that a fetched result proves to have come to DONE: nobody stands accused of them any more (14.6.2)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from crypto.backends.verification import verify_transcript
from silo_agent.consent.accusations import Accusations
from silo_agent.consent.audit_log import AuditLog
from silo_agent.opened_sums.verify import read_transcript, transcript_folders


def settle_accusations(state: Path, silo: str, result: Path, roster: Mapping[str, bytes]) -> None:
    """Settle each round of which the result's transcripts have the verdicts, on the opening that this silo signed.

    A silo that was restarted in the last phases cannot know how the round ended; the verdicts of the others are as much
    as it would have waited for (5.9.4). Where its own signature is missing, it may have signed another opening. Raises
    what `verify_transcript` raises, and InputError.
    """
    accusations = Accusations(state)
    accused = {*accusations.standing()}
    for folder in transcript_folders(result) if accused else ():
        verified = verify_transcript(read_transcript(folder), roster)
        if verified.round.digest in accused and silo in verified.signed["opening"]:
            AuditLog(state).append("accusation_settled", "agent", datetime.now(UTC), round=verified.round.digest.hex())
            accusations.settle(verified.round.digest)
