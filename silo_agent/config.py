"""The agent's config file (YAML): read once, checked field by field, every mistake named with its file and field."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from crypto.errors import ConfigError, IdentityError
from crypto.identity import Certified, check_certificates, check_key_pair, check_subject
from crypto.names import Backend, Suite
from crypto.primitives.signing import SigningKey, check_public_key
from silo_agent.host.layered_config import NOTHING, read_config, read_mapping

HEX: Final = re.compile(r"([0-9a-fA-F]{2})+")


@dataclass(frozen=True)
class AgentConfig:
    """What one silo's agent needs to know. Paths are relative to the config file."""

    silo: str
    """This silo's name in the roster, and its certificate's subject."""
    aggregator: str
    """host:port to dial."""
    model: Path | str
    """Folder of the dense model, or a hub id, whose files are downloaded once."""
    calibration: Path
    """This silo's private text; never leaves the machine."""
    state: Path
    """Folder for what the agent writes; made where missing."""
    signing_key: Path
    """This silo's private signing key in hex, of the suite: 32 bytes for Ed25519, 48 for ECDSA P-384."""
    roster: Path
    """YAML mapping of every silo's name to its public signing key in hex. A plan with another roster is refused."""
    certificate: Path
    """This silo's TLS certificate, PEM."""
    private_key: Path
    """Its private key, PEM."""
    authority: Path
    """Certificate of the authority that the aggregator's certificate must come from, PEM."""
    policy: Path
    """What this silo agrees to: its policy.yaml."""
    backend: Backend = Backend.DOUBLE_MASKING
    """The only backend that this silo accepts in a plan."""
    suite: Suite = Suite.DEFAULT
    """The only suite that this silo accepts in a plan; its keys and the roster's are of this suite."""
    capacity: int = 0
    """With layer sampling, the number of blocks that this silo declares; 0 leaves it to the plan."""
    sparsity_ratio: str = ""
    """The sparsity ratio that this silo prunes with where the plan lists one for it; empty leaves it to the plan."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, ..."""
    metrics_host: str = "127.0.0.1"
    """Address that /metrics, /livez and /readyz listen on."""
    metrics_port: int = 0
    """Their port; 0 takes a free one and logs it."""
    proxy: str = ""
    """URL of an HTTP proxy to dial through; none: never one; empty: what the environment says."""
    proxy_file: Path | None = None
    """A file that holds this URL, where it has a password."""
    renew_certificate: bool = False
    """Whether the agent asks the aggregator for a new certificate at half its life, and replaces the files."""
    reconnect_seconds: int = 60
    """How long a lost connection may stay away."""
    stay: bool = False
    """Whether the agent waits for the next round after one that it refused or that failed."""

    @classmethod
    def read(cls, file: Path, environment: Mapping[str, str] = NOTHING, flags: Sequence[str] = ()) -> "AgentConfig":
        """Raises ConfigError naming file and field."""
        return read_config(cls, file, environment, flags)[0]


def read_roster(file: Path, suite: Suite) -> dict[str, bytes]:
    """The pinned roster: public signing keys of the suite, by silo."""
    try:
        given = read_mapping(file)
    except ConfigError as error:
        raise IdentityError(error.message, hint=error.hint) from None
    roster = {}
    for silo, key in given.items():
        if not isinstance(key, str) or not HEX.fullmatch(key):
            raise IdentityError(f"{file}: {silo}: is not a public signing key in hex", hint="hex digits, in quotes")
        with named(f"{file}: {silo}"):
            check_public_key(suite, bytes.fromhex(key))
        roster[silo] = bytes.fromhex(key)
    return roster


def read_signing_key(file: Path, suite: Suite) -> SigningKey:
    """Raises IdentityError naming the file, never its content."""
    try:
        secret = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise IdentityError(f"{file}: is not a signing key", hint="hex digits are expected") from None
    with named(file):
        return SigningKey.from_bytes(secret, suite)


def read_identity(config: AgentConfig) -> tuple[SigningKey, dict[str, bytes]]:
    """This silo's signing key and the pinned roster, which has its public half. Raises IdentityError."""
    roster, key = read_roster(config.roster, config.suite), read_signing_key(config.signing_key, config.suite)
    if roster.get(config.silo) != key.public_bytes:
        raise IdentityError(f"{config.roster}: {config.silo}: is not the public key of {config.signing_key}")
    return key, roster


def read_tls(config: AgentConfig, now: datetime) -> tuple[Certified, bytes]:
    """This silo's certificate and key, and the authority's certificate. Raises IdentityError naming the file."""
    certificate, private_key = read_bytes(config.certificate), read_bytes(config.private_key)
    authority = read_bytes(config.authority)
    with named(config.certificate):
        check_certificates(certificate, now)
        check_subject(certificate, config.silo)
    with named(config.authority):
        check_certificates(authority, now)
    with named(config.private_key):
        check_key_pair(private_key, certificate)
    return Certified(certificate, private_key), authority


def proxy_setting(proxy: str, file: Path | None) -> str:
    """`proxy`, or what `file` holds. Raises ConfigError: both given, or a file without a URL."""
    if file is None:
        return proxy
    if proxy:
        raise ConfigError("proxy: cannot be given with proxy_file", hint="leave out one of them")
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{file}: cannot be read") from None
    if not found:
        raise ConfigError(f"{file}: is empty", hint="it has to hold a proxy's URL, or none")
    return found


@contextmanager
def named(file: Path | str) -> Iterator[None]:
    """An IdentityError of what is in `file` names it."""
    try:
        yield
    except IdentityError as error:
        raise IdentityError(f"{file}: {error.message}", hint=error.hint) from None


def write_secret(file: Path, content: bytes) -> None:
    """A new file that nobody else reads."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def read_bytes(file: Path) -> bytes:
    """A certificate or key file. Raises IdentityError naming it."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None
