"""Which callers are heard.

TLS verifies a caller's certificate when the connection is made. That the certificate still holds is checked on every
call, and while an upload lasts, so that an expired or revoked identity loses a live connection too.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from aggregator.limits import UNREADABLE_SECONDS
from aggregator.silos.enrolments import Enrolled, Enrolments
from crypto.errors import IdentityError, InputError
from crypto.identity import Peer, read_peer

MOST_CERTIFICATE_AGE: Final = timedelta(days=398)
"""The longest life of a certificate that is accepted, whoever issued it."""
MOST_SIGNING_KEY_AGE: Final = timedelta(days=366)
"""How long after its enrolment a silo has to enrol anew, with new keys."""
BUSY_SECONDS: Final = 1.0
"""How long a caller waits for another process's lock on the enrolments."""
AGAIN_SECONDS: Final = 5.0
"""How long after that nobody waits for it again."""

_log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present moment: the clock that is used outside tests."""
    return datetime.now(UTC)


class NotAdmitted(IdentityError):
    """A caller is not heard. `reason` says why in the metrics: unknown, revoked, expired, too_old or other_key."""

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason: Final = reason


Admit = Callable[[bytes], str]
"""Returns the name of the silo that a caller's certificate (PEM) is for. Raises NotAdmitted."""


def known(silos: Collection[str], clock: Clock) -> Admit:
    """Return an `Admit` that hears every caller whose certificate is for one of `silos`."""

    def admit(pem: bytes) -> str:
        peer = checked(pem, clock())
        if peer.name not in silos:
            raise NotAdmitted("unknown", f"{peer.name!r} is not a silo of this run")
        return peer.name

    return admit


def enrolled(enrolments: Enrolments, clock: Clock) -> Admit:
    """Return an `Admit` that hears every caller whose certificate is for a silo that is enrolled at that moment.

    The certificate must have the key that the silo enrolled with, or announced last. It is to be called in one thread
    at a time, and raises InputError too, where the enrolments cannot be read.
    """

    last = LastKnown(enrolments)

    def admit(pem: bytes) -> str:
        now = clock()
        peer = checked(pem, now)
        if member(last.silos(), peer.name, now).certificate_key != peer.key:
            raise NotAdmitted(
                "other_key",
                f"the certificate is not the one that {peer.name} calls with",
                "a silo's agent announces a new one, signed with the silo's signing key",
            )
        return peer.name

    return admit


class LastKnown:
    """Who is enrolled; while the file is locked or damaged, who was when it was last read.

    Nobody can be revoked in a file that is locked, and rounds go on meanwhile.
    """

    def __init__(self, enrolments: Enrolments) -> None:
        self._enrolments = enrolments
        self._silos: list[Enrolled] = []
        self._read = self._failed = -math.inf

    def silos(self) -> list[Enrolled]:
        """Return every silo that ever enrolled. Raises InputError where the file cannot be read, for too long now."""
        now = monotonic()
        if now - self._failed > AGAIN_SECONDS:
            try:
                self._silos, self._read = self._enrolments.silos(BUSY_SECONDS), now
            except InputError as error:
                self._failed = monotonic()
                _log.error("%s", error)
        if now - self._read > UNREADABLE_SECONDS:
            raise InputError("the enrolments cannot be read", hint="the log says why")
        return self._silos


def member(silos: Iterable[Enrolled], name: str, now: datetime) -> Enrolled:
    """Return the enrolment that a silo has at `now`. Raises NotAdmitted."""
    silo = next((silo for silo in silos if silo.silo == name), None)
    if silo is None:
        raise NotAdmitted("unknown", f"{name!r} is not enrolled", "ask the aggregator for an invitation")
    if silo.revoked is not None:
        raise NotAdmitted("revoked", f"{name} was revoked", "ask the aggregator for a new invitation")
    if now - silo.enrolled > MOST_SIGNING_KEY_AGE:
        age = (now - silo.enrolled).days
        raise NotAdmitted("too_old", f"the signing key of {name} is {age} days old", "enrol with a new one")
    return silo


def checked(pem: bytes, now: datetime, *, invitation: bool = False) -> Peer:
    """Return whom the certificate `pem` is for.

    Raises NotAdmitted where it is not in force at `now`, is good for too long, or is an invitation's where none is
    expected, or the other way about.
    """
    try:
        peer = read_peer(pem)
    except IdentityError as error:
        raise NotAdmitted("unknown", f"what the caller shows {error.message}") from None
    if not peer.start <= now <= peer.end:
        hint = "ask for a new invitation" if invitation else "renew it, or set the clock"
        raise NotAdmitted(
            "expired",
            f"the certificate of {peer.name!r} {'expired' if now > peer.end else 'does not hold yet'}: "
            f"it is valid from {peer.start:%Y-%m-%d %H:%M} to {peer.end:%Y-%m-%d %H:%M} UTC, "
            f"and the aggregator's clock says {now:%Y-%m-%d %H:%M}",
            hint,
        )
    if peer.end - peer.start > MOST_CERTIFICATE_AGE:
        days = (peer.end - peer.start).days
        raise NotAdmitted(
            "too_old",
            f"the certificate of {peer.name!r} is good for {days} days",
            f"at most {MOST_CERTIFICATE_AGE.days} are accepted",
        )
    if peer.invitation is not invitation:
        raise NotAdmitted("unknown", f"{peer.name!r} {'has not enrolled yet' if peer.invitation else 'has enrolled'}")
    return peer
