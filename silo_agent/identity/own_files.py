"""What a silo's config names as its own: signing key, pinned roster, TLS certificate. Read here, and checked."""

import re
from datetime import datetime
from pathlib import Path
from typing import Final

from crypto.errors import ConfigError, IdentityError
from crypto.identity import Certified, check_certificates, check_key_pair, check_subject
from crypto.names import Suite
from crypto.primitives.signing import SigningKey, check_public_key
from silo_agent.config import AgentConfig
from silo_agent.host.credential_files import naming, read_credential, read_secret, read_signing_key
from silo_agent.settings.plain_yaml import read_mapping

_HEX: Final = re.compile(r"([0-9a-fA-F]{2})+")


def read_roster(file: Path, suite: Suite) -> dict[str, bytes]:
    """Read a pinned roster: every silo's public signing key of `suite`, by the silo's name.

    Raises IdentityError naming file and silo.
    """
    try:
        given = read_mapping(file)
    except ConfigError as error:
        raise IdentityError(error.message, hint=error.hint) from None
    roster = {}
    for silo, key in given.items():
        if not isinstance(key, str) or not _HEX.fullmatch(key):
            raise IdentityError(f"{file}: {silo}: is not a public signing key in hex", hint="hex digits, in quotes")
        with naming(f"{file}: {silo}"):
            check_public_key(suite, bytes.fromhex(key))
        roster[silo] = bytes.fromhex(key)
    return roster


def read_identity(config: AgentConfig) -> tuple[SigningKey, dict[str, bytes]]:
    """Return this silo's signing key and the pinned roster.

    Raises IdentityError where a file is wrong, or the roster does not have the key's public half for this silo.
    """
    roster, key = read_roster(config.roster, config.suite), read_signing_key(config.signing_key, config.suite)
    if roster.get(config.silo) != key.public_bytes:
        raise IdentityError(f"{config.roster}: {config.silo}: is not the public key of {config.signing_key}")
    return key, roster


def read_tls(config: AgentConfig, now: datetime) -> tuple[Certified, bytes]:
    """Return this silo's certificate with its key, and the authority's certificate (PEM), all in force at `now`.

    Raises IdentityError naming the file that is wrong.
    """
    certificate, private_key = read_credential(config.certificate), read_secret(config.private_key)
    authority = read_credential(config.authority)
    with naming(config.certificate):
        check_certificates(certificate, now)
        check_subject(certificate, config.silo)
    with naming(config.authority):
        check_certificates(authority, now)
    with naming(config.private_key):
        check_key_pair(private_key, certificate)
    return Certified(certificate, private_key), authority
