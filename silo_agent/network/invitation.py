"""An invitation: the file that the aggregator's people send to a silo's people, and that the silo enrols with.

It holds a certificate that is good for one call: to have a signing key and a certificate request registered under the
silo's name. Its fingerprint is told over another channel; it is SHA-256 of the file, as `sha256sum` prints it.
"""

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import yaml

from crypto.errors import IdentityError
from crypto.identity import Certified, check_certificates, check_key_pair, read_peer
from silo_agent.host.credential_files import naming, read_credential
from silo_agent.network.fingerprint import plain_fingerprint
from silo_agent.settings.plain_yaml import read_mapping


@dataclass(frozen=True)
class Invitation:
    """What the aggregator gives out once a silo. The repr shows no key."""

    silo: str
    """The name that the silo gets in the roster."""
    aggregator: str
    """host:port to dial."""
    suite: str
    """The profile's name of the suite that the silo's keys are of."""
    expires: str
    """When the invitation ends, for people; the certificate says it to machines."""
    certificate: str
    """The certificate to enrol with, PEM."""
    private_key: str
    """Its private key, PEM."""
    authority: str
    """The authority that the aggregator's certificate comes from, PEM."""

    def __repr__(self) -> str:
        return f"Invitation({self.silo})"

    @property
    def own(self) -> Certified:
        """The certificate and key to call the aggregator with."""
        return Certified(self.certificate.encode(), self.private_key.encode())

    def to_bytes(self) -> bytes:
        """Return the file's content, YAML."""
        return yaml.safe_dump(asdict(self), sort_keys=False).encode()

    @classmethod
    def read(cls, file: Path, expected: str, now: datetime) -> "Invitation":
        """Read an invitation whose fingerprint was told as `expected`.

        Raises IdentityError where the file has another fingerprint, is no invitation, or has expired.
        """
        fingerprint = sha256(read_credential(file)).hexdigest()
        if fingerprint != plain_fingerprint(expected):
            raise IdentityError(
                f"{file}: has the fingerprint {fingerprint}, not the one that was given",
                hint="it was altered, or is another: ask the aggregator's people by telephone for theirs",
            )
        given = read_mapping(file)
        names = [field.name for field in fields(cls)]
        if set(given) != set(names) or not all(isinstance(value, str) for value in given.values()):
            raise IdentityError(f"{file}: is no invitation")
        invitation = cls(*(str(given[name]) for name in names))
        with naming(file):
            check_certificates(invitation.own.certificate, now)
            check_certificates(invitation.authority.encode(), now)
            check_key_pair(invitation.own.private_key, invitation.own.certificate)
            peer = read_peer(invitation.own.certificate)
            if not peer.invitation or peer.name != invitation.silo:
                raise IdentityError(f"its certificate is no invitation for {invitation.silo}")
        return invitation
