"""The roster that this silo pins: shown, compared, written down, signed, and verified."""

from collections.abc import Mapping
from pathlib import Path

from crypto.errors import BadSignature, IdentityError
from crypto.names import Suite
from crypto.primitives.signing import SigningKey
from crypto.roster import check_signature, fingerprint, roster_file, sign_roster
from silo_agent.host.whole_file import write_whole
from silo_agent.network.fingerprint import plain_fingerprint
from sparsilo.v1 import identity_pb2


def enrolled(reply: identity_pb2.RosterReply) -> dict[str, bytes]:
    """The roster that the aggregator shows."""
    return {each.silo: each.signing_key for each in reply.silos}


def signed(reply: identity_pb2.RosterReply, suite: Suite) -> dict[str, bool]:
    """By silo, whether it signed the roster shown. A signature that does not verify is none."""
    roster = enrolled(reply)
    found = {}
    for each in reply.silos:
        try:
            check_signature(suite, roster, each.silo, each.signature)
        except BadSignature:
            found[each.silo] = False
        else:
            found[each.silo] = True
    return found


def pin(
    file: Path, roster: Mapping[str, bytes], expected: str, silo: str, key: SigningKey
) -> identity_pb2.SignRosterRequest:
    """Write `roster` to `file`, and sign it, where its fingerprint is the one that people agreed on.

    Raises IdentityError: another fingerprint, or this silo is missing or has another key in it.
    """
    if fingerprint(roster).hex() != plain_fingerprint(expected):
        raise IdentityError(
            f"the aggregator shows the roster {fingerprint(roster).hex()}, not the one with the given fingerprint",
            hint="silo-agent roster show lists it; compare by telephone, silo by silo",
        )
    if roster.get(silo) != key.public_bytes:
        raise IdentityError(f"the roster does not have this silo, {silo}, with its own signing key")
    write_whole(file, roster_file(roster))
    return identity_pb2.SignRosterRequest(fingerprint=fingerprint(roster), signature=sign_roster(key, roster))


def verify_pinned(pinned: Mapping[str, bytes], reply: identity_pb2.RosterReply, suite: Suite) -> None:
    """Return if the aggregator shows the pinned roster, and all members signed it; raise IdentityError saying who
    differs.
    """
    shown = enrolled(reply)
    unpinned = sorted({*shown} - {*pinned})
    if unpinned:
        raise IdentityError(
            f"the aggregator's roster has {', '.join(unpinned)}, which this silo did not pin",
            hint="if all institutions agree on the new one: silo-agent roster show, then pin",
        )
    changed = sorted(silo for silo in pinned if shown.get(silo) != pinned[silo])
    if changed:
        raise IdentityError(f"the aggregator's roster lacks or changed the key of {', '.join(changed)}")
    missing = [silo for silo, is_signed in signed(reply, suite).items() if not is_signed]
    if missing:
        raise IdentityError(f"not signed by {', '.join(missing)}", hint="these silos have not pinned this roster yet")
