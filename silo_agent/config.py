"""The agent's config file (YAML): read once, checked field by field, every mistake named with its file and field."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from crypto.errors import ConfigError, IdentityError
from crypto.identity import Certified, check_certificates, check_key_pair, check_subject
from crypto.names import Backend, Suite
from crypto.primitives.signing import SigningKey, check_public_key

CHOICES: Final[Mapping[object, Mapping[str, object]]] = {
    Backend: {backend.value: backend for backend in Backend},
    Suite: {suite.profile: suite for suite in Suite},
}
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
    backend: Backend = Backend.DOUBLE_MASKING
    """The only backend that this silo accepts in a plan."""
    suite: Suite = Suite.DEFAULT
    """The only suite that this silo accepts in a plan; its keys and the roster's are of this suite."""
    colluders: int = 0
    """Dishonest silos that a plan must withstand at least, beside the aggregator."""
    least_honest_survivors: int = 3
    """Survivors beyond the plan's colluders that a sum must hide this silo among, itself included."""
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

    @classmethod
    def read(cls, file: Path) -> "AgentConfig":
        """Raises ConfigError naming file and field."""
        given = read_mapping(file)
        known = {field.name: field for field in fields(cls)}
        for name in given:
            if name not in known:
                raise ConfigError(f"{file}: {name}: unknown field", hint=f"known: {', '.join(known)}")
        missing = [name for name in ("silo", "aggregator", *_PATHS) if name not in given]
        if missing:
            raise ConfigError(f"{file}: {missing[0]}: is missing")
        values: dict[str, Any] = {name: _typed(file, name, known[name].type, value) for name, value in given.items()}
        return cls(**values)


_PATHS = ("model", "calibration", "state", "signing_key", "roster", "certificate", "private_key", "authority")


def _typed(file: Path, name: str, kind: Any, value: object) -> object:
    if kind is int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{file}: {name}: must be a whole number")
        return value
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{file}: {name}: must be a text")
    if kind == Path | str:
        return file.parent / value if (file.parent / value).is_dir() else value
    if kind is Path:
        return file.parent / value
    if kind in CHOICES:
        if value not in CHOICES[kind]:
            raise ConfigError(f"{file}: {name}: {value!r} is unknown", hint=f"known: {', '.join(CHOICES[kind])}")
        return CHOICES[kind][value]
    return value


def read_mapping(file: Path) -> Mapping[str, object]:
    """A YAML file that holds one mapping with text keys."""
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{file}: line {mark.line + 1 if mark else '?'}: is not YAML") from None
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConfigError(f"{file}: must hold `field: value` lines")
    return given


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
        with _named(f"{file}: {silo}"):
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
    with _named(file):
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
    with _named(config.certificate):
        check_certificates(certificate, now)
        check_subject(certificate, config.silo)
    with _named(config.authority):
        check_certificates(authority, now)
    with _named(config.private_key):
        check_key_pair(private_key, certificate)
    return Certified(certificate, private_key), authority


@contextmanager
def _named(file: Path | str) -> Iterator[None]:
    try:
        yield
    except IdentityError as error:
        raise IdentityError(f"{file}: {error.message}", hint=error.hint) from None


def read_bytes(file: Path) -> bytes:
    """A certificate or key file. Raises IdentityError naming it."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None
