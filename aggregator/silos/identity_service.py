"""What the aggregator answers to silos that enrol, renew their certificate, or ask for and sign the roster.

Bytes come in and bytes go out; the servicer says who calls.
"""

from datetime import timedelta
from hashlib import sha256
from importlib.metadata import version
from typing import Final

from aggregator.silos.admission import Clock, checked, member
from aggregator.silos.enrolments import Enrolled, Enrolments
from crypto import roster as rosters
from crypto.encoding.wire import MESSAGE_LIMIT, decode, encode
from crypto.errors import MalformedMessage, ProtocolError
from crypto.identity import Authority, read_peer
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
        asked, key = message.certificate_request, message.certificate_key
        if len(key) != (0 if asked else sha256().digest_size):
            raise MalformedMessage("names no key of a certificate, or asks for one too", party=invitation.name)
        check_public_key(self._suite, message.signing_key)
        rosters.check_enrolment(self._suite, message.signing_key, invitation.name, asked, key, message.signature)
        certificate = self._certify(asked, invitation.name) if asked else b""
        key = read_peer(certificate).key if asked else key
        enrolled = Enrolled(invitation.name, message.signing_key, key, enrolled=now, revoked=None)
        issued = self._enrolments.enroll(enrolled, invitation.serial, request, certificate)
        return encode(identity_pb2.EnrollReply(certificate=issued))

    def renew(self, silo: str, request: bytes) -> bytes:
        """Answer Identity.Renew: issue the silo a new certificate, with which it is heard once it announced its key."""
        message = decode(identity_pb2.RenewRequest, request, MESSAGE_LIMIT, party=silo)
        return encode(identity_pb2.RenewReply(certificate=self._certify(message.certificate_request, silo)))

    def announce(self, pem: bytes, request: bytes) -> bytes:
        """Answer Identity.Announce: hear the silo with the key of the certificate `pem`, if its signing key says so."""
        now = self._clock()
        peer = checked(pem, now)
        message = decode(identity_pb2.AnnounceRequest, request, MESSAGE_LIMIT, party=peer.name)
        enrolled = member(self._enrolments.silos(), peer.name, now)
        rosters.check_certificate_key(self._suite, enrolled.signing_key, peer.name, peer.key, message.signature)
        self._enrolments.announce(enrolled, peer.key)
        return encode(identity_pb2.AnnounceReply())

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
