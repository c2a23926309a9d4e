"""How a silo joins: an invitation, keys that are made here and stay here, and a folder that its agent runs from.

An invitation is a certificate that is good for one call: to have a signing key and a certificate request registered
under the silo's name. Its fingerprint is told over another channel; it is SHA-256 of the file, as `sha256sum` prints.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import yaml

from crypto.errors import ConfigError, IdentityError, OutputError
from crypto.identity import Certified, certificate_request, check_certificates, check_key_pair, check_subject, read_peer
from crypto.names import Suite
from crypto.primitives.signing import SigningKey
from crypto.roster import sign_enrolment
from silo_agent.config import named, read_bytes, read_signing_key, write_secret
from silo_agent.host.layered_config import read_mapping
from sparsilo.v1 import identity_pb2

SIGNING_KEY, PRIVATE_KEY, CERTIFICATE, AUTHORITY = "signing_key", "tls.key", "tls.crt", "ca.crt"
_REQUEST: Final = "request.pem"
_SEPARATORS: Final = re.compile(r"[\s:-]+")


@dataclass(frozen=True)
class Invitation:
    """What the aggregator gives out, once a silo. The repr shows no key."""

    silo: str
    aggregator: str
    """host:port."""
    suite: str
    """Its profile's name."""
    expires: str
    """For people; the certificate says it to machines."""
    certificate: str
    private_key: str
    authority: str
    """Of the aggregator's certificate, PEM like the two before."""

    def __repr__(self) -> str:
        return f"Invitation({self.silo})"

    @property
    def own(self) -> Certified:
        """What to call with."""
        return Certified(self.certificate.encode(), self.private_key.encode())

    def to_bytes(self) -> bytes:
        """The file."""
        return yaml.safe_dump({each.name: getattr(self, each.name) for each in fields(self)}, sort_keys=False).encode()

    @classmethod
    def read(cls, file: Path, expected: str, now: datetime) -> "Invitation":
        """Raises IdentityError: not the file that `expected` is the fingerprint of, expired, or no invitation."""
        found = sha256(read_bytes(file)).hexdigest()
        if found != plain_fingerprint(expected):
            raise IdentityError(
                f"{file}: has the fingerprint {found}, not the one that was given",
                hint="it was altered, or is another: ask the aggregator's people by telephone for theirs",
            )
        given = read_mapping(file)
        names = [each.name for each in fields(cls)]
        values = [given.get(name) for name in names]
        if set(given) != set(names) or not all(isinstance(value, str) for value in values):
            raise IdentityError(f"{file}: is no invitation")
        invitation = cls(*(str(value) for value in values))
        with named(file):
            check_certificates(invitation.own.certificate, now)
            check_certificates(invitation.authority.encode(), now)
            check_key_pair(invitation.own.private_key, invitation.own.certificate)
            peer = read_peer(invitation.own.certificate)
            if not peer.invitation or peer.name != invitation.silo:
                raise IdentityError(f"its certificate is no invitation for {invitation.silo}")
        return invitation


def plain_fingerprint(text: str) -> str:
    """As 64 lower-case hex digits, however it was grouped for reading aloud. Raises IdentityError."""
    plain = _SEPARATORS.sub("", text).lower()
    if not re.fullmatch("[0-9a-f]{64}", plain):
        raise IdentityError("--fingerprint: is not 64 hex digits", hint="all of them; groups and spaces do no harm")
    return plain


def grouped(fingerprint: bytes) -> str:
    """For reading aloud: eight groups of eight hex digits."""
    digits = fingerprint.hex()
    return " ".join(digits[start : start + 8] for start in range(0, len(digits), 8))


class Enrolment:
    """The keys that a silo makes for its invitation. They are on disk before they are told anybody, so that an
    enrolment that broke off goes on with the same ones.
    """

    def __init__(self, invitation: Invitation, out: Path, own: tuple[Path, Path, Path] | None) -> None:
        """`own`: certificate, private key and the authority to trust, where the silo has them from elsewhere.

        Raises OutputError where OUT exists, IdentityError where the silo's own files do not fit.
        """
        if out.exists():
            raise OutputError(f"{out}: exists", hint="name a new folder with --out, or give --once")
        self._invitation, self._out, self._own = invitation, out, own
        self._suite = _suite(invitation.suite)
        self._draft = out.with_name(f".{out.name}-enrolling")
        self._draft.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._draft / SIGNING_KEY).exists():
            write_secret(self._draft / SIGNING_KEY, SigningKey.generate(self._suite).to_bytes().hex().encode())
        if own is None and not (self._draft / _REQUEST).exists():
            request, private_key = certificate_request(invitation.silo)
            (self._draft / PRIVATE_KEY).unlink(missing_ok=True)
            write_secret(self._draft / PRIVATE_KEY, private_key)
            (self._draft / _REQUEST).write_bytes(request)

    @property
    def request(self) -> identity_pb2.EnrollRequest:
        """For Identity.Enroll; the same bytes every time."""
        key = read_signing_key(self._draft / SIGNING_KEY, self._suite)
        asked = b"" if self._own else read_bytes(self._draft / _REQUEST)
        return identity_pb2.EnrollRequest(
            signing_key=key.public_bytes,
            certificate_request=asked,
            signature=sign_enrolment(key, self._invitation.silo, asked),
        )

    def finish(self, reply: identity_pb2.EnrollReply, now: datetime, files: Mapping[str, str]) -> bytes:
        """OUT appears whole, with `files` beside the keys; the public signing key. Raises IdentityError where the
        certificate that came is not the one asked for.
        """
        if self._own is None:
            with named("the certificate that the aggregator issued"):
                check_certificates(reply.certificate, now)
                check_subject(reply.certificate, self._invitation.silo)
                check_key_pair(read_bytes(self._draft / PRIVATE_KEY), reply.certificate)
            (self._draft / CERTIFICATE).write_bytes(reply.certificate)
            (self._draft / AUTHORITY).write_text(self._invitation.authority)
            (self._draft / _REQUEST).unlink()
        for name, content in files.items():
            (self._draft / name).write_text(content, encoding="utf-8")
        key = read_signing_key(self._draft / SIGNING_KEY, self._suite)
        self._draft.rename(self._out)
        return key.public_bytes

    def give_up(self) -> None:
        """The invitation was refused: the keys were for nothing."""
        shutil.rmtree(self._draft)


def agent_config(invitation: Invitation, model: Path, calibration: Path, own: tuple[Path, Path, Path] | None) -> str:
    """agent.yaml of an enrolled silo; the roster is pinned later."""
    certificate, private_key, authority = map(str, own) if own else (CERTIFICATE, PRIVATE_KEY, AUTHORITY)
    return yaml.safe_dump(
        {
            "silo": invitation.silo,
            "aggregator": invitation.aggregator,
            "model": str(model),
            "calibration": str(calibration),
            "state": "state",
            "signing_key": SIGNING_KEY,
            "roster": "roster.yaml",
            "certificate": certificate,
            "private_key": private_key,
            "authority": authority,
            "policy": "policy.yaml",
            "suite": invitation.suite,
            "renew_certificate": own is None,
            "stay": True,
            "reconnect_seconds": 86400,
        },
        sort_keys=False,
    )


def policy_file(trusted: bytes) -> str:
    """policy.yaml of an enrolled silo: the model it was given, every release kind, and a person's approval."""
    return f"""# What this silo agrees to (docs/formats.md). Change it to what your institution decided.
models: ["{trusted.hex()}"]  # the only models that may be pruned, by digest
approval: manual  # a person looks at every plan: silo-agent pending, approve, reject
least_survivors: 3
least_honest_survivors: 3
colluders: 0  # dishonest silos, beside the aggregator, that a plan must withstand
budget:
  releases: 100  # rounds in which the same text may leave in masked words
"""


def _suite(name: str) -> Suite:
    for suite in Suite:
        if suite.profile == name:
            return suite
    raise ConfigError(f"invitation: suite: {name!r} is unknown")
