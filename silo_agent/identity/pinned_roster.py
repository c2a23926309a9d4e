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
    """Return the roster that the aggregator shows: public signing keys by silo."""
    return {member.silo: member.signing_key for member in reply.silos}


def signed(reply: identity_pb2.RosterReply, suite: Suite) -> dict[str, bool]:
    """Return, by silo, whether it signed the roster that is shown. A signature that does not verify is none."""
    roster = enrolled(reply)
    has_signed = {}
    for member in reply.silos:
        try:
            check_signature(suite, roster, member.silo, member.signature)
        except BadSignature:
            has_signed[member.silo] = False
        else:
            has_signed[member.silo] = True
    return has_signed


def pin(
    file: Path, roster: Mapping[str, bytes], expected: str, silo: str, key: SigningKey
) -> identity_pb2.SignRosterRequest:
    """Write `roster` to `file`; return its signature, for Identity.SignRoster.

    Raises IdentityError where its fingerprint is not the `expected` one, which people agreed on, or where it does not
    have this silo with its own key.
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
    """Check that the aggregator shows the pinned roster, and that all its members signed it.

    Raises IdentityError saying who differs.
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
