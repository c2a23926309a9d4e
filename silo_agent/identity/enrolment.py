"""How a silo joins with an invitation: it makes keys that stay on its machine, and a folder for its agent."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from crypto.errors import ConfigError, OutputError
from crypto.identity import certificate_request, check_certificates, check_key_pair, check_subject, read_peer
from crypto.names import Suite
from crypto.primitives.signing import SigningKey
from crypto.roster import sign_enrolment
from silo_agent.config import AUTHORITY, CERTIFICATE, PRIVATE_KEY, SIGNING_KEY, AgentConfig
from silo_agent.host.credential_files import (
    naming,
    read_credential,
    read_secret,
    read_signing_key,
    write_secret,
    write_signing_key,
)
from silo_agent.host.whole_file import write_whole
from silo_agent.network.invitation import Invitation
from sparsilo.v1 import identity_pb2

RECONNECT_SECONDS: Final = 86400
"""How long an enrolled silo's agent goes on dialling; an aggregator may be away for a day."""
_REQUEST: Final = "request.pem"


class Enrolment:
    """The keys that a silo makes for its invitation.

    They are on disk before anybody is told of them, so that an enrolment that broke off goes on with the same ones.
    """

    def __init__(self, invitation: Invitation, out: Path, own: tuple[Path, Path, Path] | None) -> None:
        """Make the keys in a hidden folder beside `out`, unless an enrolment that broke off left them there.

        `own` names certificate, private key and the authority to trust, where the silo has them from elsewhere. Raises
        OutputError where `out` exists, ConfigError where the invitation's suite is unknown.
        """
        if out.exists():
            raise OutputError(f"{out}: exists", hint="name a new folder with --out, or give --once")
        self._invitation, self._out, self._own = invitation, out, own
        self._suite = _suite(invitation.suite)
        self._draft = out.with_name(f".{out.name}-enrolling")
        self._draft.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._draft / SIGNING_KEY).exists():
            write_signing_key(self._draft / SIGNING_KEY, SigningKey.generate(self._suite))
        if own is None and not (self._draft / _REQUEST).exists():
            request, private_key = certificate_request(invitation.silo)
            (self._draft / PRIVATE_KEY).unlink(missing_ok=True)
            write_secret(self._draft / PRIVATE_KEY, private_key)
            write_whole(self._draft / _REQUEST, request)

    @property
    def request(self) -> identity_pb2.EnrollRequest:
        """What to call Identity.Enroll with: the same bytes every time."""
        key = read_signing_key(self._draft / SIGNING_KEY, self._suite)
        csr, certificate_key = b"", b""
        if self._own is None:
            csr = read_credential(self._draft / _REQUEST)
        else:
            with naming(self._own[0]):
                certificate_key = read_peer(read_credential(self._own[0])).key
        return identity_pb2.EnrollRequest(
            signing_key=key.public_bytes,
            certificate_request=csr,
            signature=sign_enrolment(key, self._invitation.silo, csr, certificate_key),
            certificate_key=certificate_key,
        )

    def finish(self, reply: identity_pb2.EnrollReply, now: datetime, files: Mapping[str, str]) -> bytes:
        """Make the folder `out` appear whole, with `files` (content by name) beside the keys; return the public signing
        key. Raises IdentityError where the certificate that came is not the one that was asked for.
        """
        if self._own is None:
            with naming("the certificate that the aggregator issued"):
                check_certificates(reply.certificate, now)
                check_subject(reply.certificate, self._invitation.silo)
                check_key_pair(read_secret(self._draft / PRIVATE_KEY), reply.certificate)
            (self._draft / CERTIFICATE).write_bytes(reply.certificate)
            (self._draft / AUTHORITY).write_text(self._invitation.authority)
            (self._draft / _REQUEST).unlink()
        for name, content in files.items():
            (self._draft / name).write_text(content, encoding="utf-8")
        key = read_signing_key(self._draft / SIGNING_KEY, self._suite)
        self._draft.rename(self._out)
        return key.public_bytes

    def give_up(self) -> None:
        """Remove the keys of an invitation that was refused."""
        shutil.rmtree(self._draft)


def agent_config(
    invitation: Invitation, model: Path, calibration: Path, own: tuple[Path, Path, Path] | None
) -> AgentConfig:
    """Return the config of an enrolled silo's agent, for agent.yaml; its roster is pinned later.

    `own`: certificate, private key and authority, where the silo has them from elsewhere.
    """
    config = replace(
        AgentConfig.beside(invitation.silo, invitation.aggregator, model, calibration),
        suite=_suite(invitation.suite),
        renew_certificate=own is None,
        stay=True,
        reconnect_seconds=RECONNECT_SECONDS,
    )
    if own:
        config = replace(config, certificate=own[0], private_key=own[1], authority=own[2])
    return config


def policy_file(trusted: bytes) -> str:
    """Return policy.yaml of an enrolled silo: it trusts the model of this digest, and a person approves every plan."""
    return f"""# What this silo agrees to (docs/formats.md). Change it to what your institution decided.
models: ["{trusted.hex()}"]  # the only models that may be pruned, by digest
approval: manual  # a person looks at every plan: silo-agent pending, approve, reject
release_kinds: [votes, weights, scales, outliers, sampling, evaluation]  # what rounds may sum; gram, a plan's default,
# makes better models and tells which words occur: decide on it (docs/threat-model.md)
least_survivors: 3
least_honest_survivors: 3
colluders: 0  # dishonest silos, beside the aggregator, that a plan must withstand
least_sparsity_ratio_of_others: 0.1  # what a silo that keeps nearly all or nothing adds is known, and hides nobody
most_sparsity_ratio_of_others: 0.9
least_samples: 16  # calibration sequences: a narrow question says more about few texts
budget:
  releases: 100  # rounds in which the same text may leave in masked words
"""


def _suite(name: str) -> Suite:
    """Return the suite whose profile an invitation names."""
    for suite in Suite:
        if suite.profile == name:
            return suite
    raise ConfigError(f"invitation: suite: {name!r} is unknown")
