"""What the aggregator answers to silos that enrol, renew their certificate, or ask for and sign the roster.

Bytes come in and bytes go out; the servicer says who calls.
"""

from datetime import timedelta
from importlib.metadata import version
from typing import Final

from aggregator.silos.admission import Clock, checked
from aggregator.silos.enrolments import Enrolments
from crypto import roster as rosters
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import ProtocolError
from crypto.identity import Authority
from crypto.names import Suite
from crypto.primitives.signing import check_public_key
from sparsilo.v1 import identity_pb2

CERTIFICATE_LIFETIME: Final = timedelta(days=30)
"""How long a silo's certificate lasts; its agent renews it at half of that."""


class IdentityService:
    """The service `Identity` (proto/sparsilo/v1/identity.proto): a method a call, from a request's bytes to a reply's.

    Every method raises IdentityError or ProtocolError saying what is wrong with the request.
    """

    def __init__(self, enrolments: Enrolments, authority: Authority, suite: Suite, clock: Clock) -> None:
        self._enrolments, self._authority, self._suite, self._clock = enrolments, authority, suite, clock

    def enroll(self, pem: bytes, request: bytes) -> bytes:
        """Answer Identity.Enroll: register the silo whose invitation's certificate `pem` is."""
        now = self._clock()
        invitation = checked(pem, now, invitation=True)
        message = decode(identity_pb2.EnrollRequest, request, MESSAGE_LIMIT, party=invitation.name)
        check_public_key(self._suite, message.signing_key)
        rosters.check_enrolment(
            self._suite, message.signing_key, invitation.name, message.certificate_request, message.signature
        )
        certificate = b""
        if message.certificate_request:
            certificate = self._certify(message.certificate_request, invitation.name)
        issued = self._enrolments.enroll(
            invitation.name, invitation.serial, message.signing_key, request, certificate, now
        )
        return encode(identity_pb2.EnrollReply(certificate=issued))

    def renew(self, silo: str, request: bytes) -> bytes:
        """Answer Identity.Renew: issue the silo a new certificate."""
        message = decode(identity_pb2.RenewRequest, request, MESSAGE_LIMIT, party=silo)
        return encode(identity_pb2.RenewReply(certificate=self._certify(message.certificate_request, silo)))

    def roster(self, silo: str, request: bytes) -> bytes:
        """Answer Identity.Roster: show the present roster, and who has signed it."""
        decode(identity_pb2.RosterRequest, request, MESSAGE_LIMIT, party=silo)
        roster = self._enrolments.roster()
        signatures = self._enrolments.signatures(rosters.fingerprint(roster))
        return encode(
            identity_pb2.RosterReply(
                silos=[
                    identity_pb2.EnrolledSilo(silo=member, signing_key=key, signature=signatures.get(member, b""))
                    for member, key in roster.items()
                ]
            )
        )

    def sign_roster(self, silo: str, request: bytes) -> bytes:
        """Answer Identity.SignRoster: keep the silo's signature of the present roster."""
        message = decode(identity_pb2.SignRosterRequest, request, MESSAGE_LIMIT, party=silo)
        roster = self._enrolments.roster()
        if message.fingerprint != rosters.fingerprint(roster):
            raise ProtocolError("signs another roster than the present one", party=silo)
        rosters.check_signature(self._suite, roster, silo, message.signature)
        self._enrolments.sign_roster(message.fingerprint, silo, message.signature)
        return encode(identity_pb2.SignRosterReply())

    def status(self, silo: str, request: bytes) -> bytes:
        """Answer Identity.Status: this machine's clock, the version and the present roster's fingerprint."""
        decode(identity_pb2.StatusRequest, request, MESSAGE_LIMIT, party=silo)
        fingerprint = rosters.fingerprint(self._enrolments.roster())
        seconds = int(self._clock().timestamp())
        return encode(identity_pb2.StatusReply(unix_seconds=seconds, version=version("sparsilo"), roster=fingerprint))

    def _certify(self, request: bytes, silo: str) -> bytes:
        return self._authority.certify(request, silo, self._clock(), CERTIFICATE_LIFETIME)
